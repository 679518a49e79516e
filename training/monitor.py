"""What one sees of a run: a progress bar, or plain lines where there is no terminal, and TensorBoard."""

import contextlib
import sys
import threading
from datetime import timedelta

from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common.errors import describe
from common.mel_plot import mel_pair
from training.statistics import means_by_name


class Monitor:
    """Shows nothing, and writes nothing, unless `enabled`, as it is on the first process alone.

    Args:
        path: where TensorBoard's files go.
        trainer: the `Trainer`, at the step that the run begins or goes on at.
        enabled: whether this is the process that speaks.
    """

    def __init__(self, path, trainer, enabled=True):
        self.enabled = enabled
        self._previous_hook, threading.excepthook = threading.excepthook, self._leave_to_writer
        self.writer, n_steps = None, trainer.config.training.n_steps
        disable = None if enabled else True  # None: only on a terminal
        self.bar = tqdm(total=n_steps, initial=trainer.step, unit="step", file=sys.stdout, dynamic_ncols=True, disable=disable)
        if not enabled:
            return
        with self._unless_disk_fails():
            # What an earlier part of the run logged after its last checkpoint is hidden: those steps come again.
            self.writer = SummaryWriter(path, purge_step=trainer.step + 1, flush_secs=30)
            config = trainer.config.model_dump_json(indent=2)
            self.writer.add_text("config", f"```json\n{config}\n```", trainer.step)

    def say(self, line):
        """Prints a line. Where nobody reads any more, or the disk of the log is full, the run goes on."""
        if self.enabled:
            with contextlib.suppress(OSError):
                self.bar.write(line, file=sys.stdout)
                sys.stdout.flush()

    def advance(self, step):
        """Moves the progress bar; backwards too, after a divergence."""
        self.bar.update(step - self.bar.n)

    def log_interval(self, trainer, stage, scalars):
        """Args: stage: the `Stage` of the last step, whose remaining time is told. scalars: those of an `Interval`."""
        self._add_scalars(scalars, trainer.step)
        speed = scalars["speed/samples_per_second"]
        seconds = round((stage.end - trainer.step) * stage.config.training.batch_size / speed)
        of_training = {name.removeprefix("train/").replace("_", " "): value for name, value in scalars.items() if name.startswith("train/")}
        figures = "  ".join(f"{name} {value:.4g}" for name, value in of_training.items())
        stage_name = f" in stage {stage.number}" if len(trainer.stages) > 1 else ""
        self.say(f"step {trainer.step}  {figures}  {speed:.1f} samples/s  remaining{stage_name} {timedelta(seconds=seconds)}")

    def log_validation(self, step, loss, by_group, previews, mel_config):
        """Args: loss, by_group: as `Trainer.evaluate` returns them. previews: list of `Preview`."""
        figures = means_by_name(preview.figures for preview in previews)
        self.say("  ".join([f"step {step}", f"validation loss {loss:.4f}", *(f"{k} {v:.3f}" for k, v in figures.items())]))
        groups = {"real_time_factor": "speed"}
        scalars = {f"{groups.get(name, 'validation')}/{name}": value for name, value in {"loss": loss, **figures}.items()}
        self._add_scalars(scalars | by_group, step)
        if self.writer is None:
            return
        with self._unless_disk_fails():
            for preview in previews:
                name = f"{preview.index}-{preview.name}"  # names may come twice, in several folders
                for sound, waveform in {"recording": preview.recording, **preview.results}.items():
                    self.writer.add_audio(f"{name}/{sound}", waveform, step, mel_config.sample_rate)
                self.writer.add_figure(f"mel/{name}", mel_pair(preview.recording_mel, preview.result_mel, mel_config), step)
            self.writer.flush()

    def close(self):
        self.bar.close()
        if self.writer is not None:
            with self._unless_disk_fails():
                self.writer.close()
        threading.excepthook = self._previous_hook

    def _leave_to_writer(self, error):
        """TensorBoard's thread shows a traceback of what its writer then raises here, too."""
        of_writer = type(error.thread).__module__ == event_file_writer.__name__
        if not (of_writer and isinstance(error.exc_value, OSError)):
            self._previous_hook(error)

    def _add_scalars(self, scalars, step):
        if self.writer is not None:
            with self._unless_disk_fails():
                for name, value in scalars.items():
                    self.writer.add_scalar(name, value, step)

    @contextlib.contextmanager
    def _unless_disk_fails(self):
        """A disk that is full costs the rest of the curves, not the run."""
        try:
            yield
        except OSError as error:
            self.writer = None
            self.say(f"warning: TensorBoard's files cannot be written any more: {describe(error)}")
