"""What one sees of a run: a progress bar, or plain lines where there is no terminal, and TensorBoard."""

import contextlib
import sys
import threading
import time
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
        self.writer = None
        self.bar = tqdm(disable=True)
        with contextlib.suppress(OSError):
            self.bar = tqdm(
                total=trainer.config.training.n_steps,
                initial=trainer.step,
                unit="step",
                file=sys.stdout,
                dynamic_ncols=True,
                disable=not (enabled and sys.stdout.isatty()),
            )
        if not enabled:
            return
        with self._unless_disk_fails():
            # What an earlier part of the run logged after its last checkpoint is hidden: those steps come again.
            self.writer = SummaryWriter(path, purge_step=trainer.step + 1, flush_secs=30)
            config = trainer.config.model_dump_json(indent=2)
            self.writer.add_text("config", f"```json\n{config}\n```", trainer.step)

    def begin_stage(self, trainer):
        """The remaining time is that of the stage, from the speed since this call; the next stage has another speed."""
        self.first_step, self.last_step, self.start = trainer.step, trainer.stage.end, time.monotonic()
        self.stage_name = f" in stage {trainer.stage.number}" if len(trainer.stages) > 1 else ""

    def say(self, line):
        """Prints a line. Where nobody reads any more, or the disk of the log is full, the run goes on."""
        if not self.enabled:
            return
        with contextlib.suppress(OSError):
            if self.bar.disable:
                print(line, flush=True)
            else:
                self.bar.write(line, file=sys.stdout)

    def advance(self, step):
        """Moves the progress bar; backwards too, after a divergence."""
        with contextlib.suppress(OSError):
            self.bar.update(step - self.bar.n if not self.bar.disable else 0)

    def log_interval(self, step, scalars):
        """Args: scalars: those of an `Interval`."""
        self._add_scalars(scalars, step)
        seconds = (time.monotonic() - self.start) / max(step - self.first_step, 1) * (self.last_step - step)
        losses = [name for name in scalars if name.startswith("train/") and name.endswith("_loss")]
        others = (f"{name.removeprefix('train/').replace('_', ' ')} {scalars[name]:.4f}  " for name in losses)
        self.say(
            f"step {step}  loss {scalars.get('train/loss', float('nan')):.4f}  {''.join(others)}"
            f"gradient norm {scalars.get('train/gradient_norm', float('nan')):.3f}  "
            f"learning rate {scalars['train/learning_rate']:.2e}  "
            f"{scalars['speed/samples_per_second']:.1f} samples/s  remaining{self.stage_name} {timedelta(seconds=round(seconds))}"
        )

    def log_validation(self, step, loss, by_group, previews, mel_config):
        """Args: loss, by_group: as `Trainer.evaluate` returns them. previews: list of `Preview`."""
        figures = means_by_name(preview.figures for preview in previews)
        self.say("  ".join([f"step {step}", f"validation loss {loss:.4f}", *(f"{k} {v:.3f}" for k, v in figures.items())]))
        if "real_time_factor" in figures:
            self._add_scalars({"speed/real_time_factor": figures.pop("real_time_factor")}, step)
        self._add_scalars({f"validation/{name}": value for name, value in {"loss": loss, **figures}.items()}, step)
        self._add_scalars(by_group, step)
        if self.writer is None:
            return
        with self._unless_disk_fails():
            for preview in previews:
                name = f"{preview.index}-{preview.name}"  # names may come twice, in several folders
                self.writer.add_audio(f"{name}/recording", preview.recording, step, mel_config.sample_rate)
                for result, waveform in preview.results.items():
                    self.writer.add_audio(f"{name}/{result}", waveform, step, mel_config.sample_rate)
                self.writer.add_figure(f"mel/{name}", mel_pair(preview.recording_mel, preview.result_mel, mel_config), step)
            self.writer.flush()

    def close(self):
        with contextlib.suppress(OSError):
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
