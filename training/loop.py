"""A run from its first or next step to its end: steps, log, validation, checkpoints, and the way back from a divergence."""

import contextlib
import math

from common.errors import describe
from training import distributed
from training.checkpointing import read_state
from training.previews import make_previews, preview_pipelines
from training.safety import WINDOW
from training.statistics import Interval

GAVE_UP = 1  # exit status


class Loop:
    """A run from its present step to its end.

    Args:
        trainer: a `Trainer`, at the step where the run begins or goes on.
        folder: an open `RunFolder`; only the first process uses it.
        monitor: a `Monitor`.
        stop_signal: an entered `StopSignal`.
    """

    def __init__(self, trainer, folder, monitor, stop_signal):
        self.trainer = trainer
        self.folder = folder
        self.monitor = monitor
        self.stop_signal = stop_signal
        self.preview_pipelines = preview_pipelines(trainer)
        self.is_stopped = False

    def run(self, is_new):
        """Trains to the end and returns an exit status: 0, also when stopped by a signal, or 1 after giving up.

        Args:
            is_new: whether the folder has no checkpoint of the run.

        Raises:
            OSError, InputError: a recording cannot be read any more; a checkpoint cannot be written, and that is to stop
                the run, or it is the first one or the last.
        """
        if is_new:
            self._save()  # something to go back to, and a disk that cannot be written is found at once
        while not self.is_stopped and self.trainer.step < self.trainer.config.training.n_steps:
            problem = self._stage()
            if problem is not None and not self._roll_back(problem):
                return GAVE_UP
        return 0

    def _stage(self):
        """Steps until the end of the stage or a signal, and returns None; or until something has gone wrong, and returns what."""
        stage, n_stages = self.trainer.stage, len(self.trainer.stages)
        if self.trainer.step == stage.first and n_stages > 1:
            self.monitor.say(f"stage {stage.number} of {n_stages}: steps {stage.first + 1} to {stage.end}")
            self.trainer.best_validation_loss = None  # losses of another stage are others
        with contextlib.closing(self.trainer.batches()) as batches:
            return self._steps(stage, batches)

    def _steps(self, stage, batches):
        trainer, training = self.trainer, self.trainer.config.training
        interval = Interval(trainer.position)
        for batch in batches:
            result = trainer.train_step(batch)
            interval.add(result)
            problem = trainer.guard.observe(result.figures.get("loss"), result.updated)
            self.monitor.advance(trainer.step)
            if problem is not None:
                return problem
            last = trainer.step == training.n_steps
            if trainer.step % training.log_every == 0 or last:
                self.monitor.log_interval(trainer, stage, interval.scalars(trainer))
                interval = Interval(trainer.position)
            if trainer.step % training.validate_every == 0 or last:
                self._validate()
            reason = self.stop_signal.check()
            stop = distributed.any_process(reason is not None)
            if trainer.step % training.save_every == 0 or self._is_milestone() or last or stop:
                self._save(final=last or stop)
            if stop:
                reason = next(filter(None, distributed.collect(reason)))
                self.is_stopped = True
                self.monitor.say(f"stopped by {reason} at step {trainer.step}; the same command goes on from there")
                return None
            interval.resume_clock()
        return None

    def _validate(self):
        trainer, training = self.trainer, self.trainer.config.training
        loss, by_group = trainer.evaluate()
        previews = make_previews(trainer, self.preview_pipelines, training.n_previews)
        self.monitor.log_validation(trainer.step, loss, by_group, previews, trainer.config.mel)
        best = trainer.best_validation_loss
        if _is_better(loss, best):
            trainer.best_validation_loss = loss
            if not self._write(lambda: self.folder.save_best(trainer.state_dict()), final=False):
                trainer.best_validation_loss = best

    def _is_milestone(self):
        every = self.trainer.config.training.milestone_every
        return every is not None and self.trainer.step > 0 and self.trainer.step % every == 0

    def _save(self, final=False):
        def write():
            path = self.folder.save(self.trainer.state_dict(), self._is_milestone())
            self.monitor.say(f"saved {path}")

        self._write(write, final)

    def _write(self, write, final):
        """Writes on the first process; returns, on all of them, whether it is written, unless a failure ends the run."""

        def attempt():
            try:
                write()
            except OSError as error:
                nothing_to_go_back_to = not self.folder.checkpoints()
                if final or nothing_to_go_back_to or self.trainer.config.training.on_failed_save == "stop":
                    raise
                self.monitor.say(f"warning: {describe(error)}; training goes on, and will try again")
                return False
            return True

        return distributed.on_first(attempt)

    def _roll_back(self, problem):
        """Goes back to the last good checkpoint with a lower learning rate; returns False after too many times.

        The examples are not repeated: training goes on behind those that it diverged on (as in PaLM, section 5.1).
        """
        trainer, training = self.trainer, self.trainer.config.training
        trouble = f"step {trainer.step}: {problem}"
        if trainer.n_rollbacks >= training.max_rollbacks:
            self.monitor.say(f"{trouble}; giving up after {trainer.n_rollbacks} returns to an earlier checkpoint")
            return False
        path, state = self._last_good()
        state["stability"]["n_skipped"] = trainer.guard.n_skipped
        state |= {"n_rollbacks": trainer.n_rollbacks + 1, "position": trainer.position}
        state["best_validation_loss"] = trainer.best_validation_loss  # best.pt stays, too
        trainer.load_state_dict(state, path)
        self.monitor.say(
            f"{trouble}; back to {path}, with the learning rate at "
            f"{trainer.optimizer.param_groups[0]['lr']:.2e} ({trainer.n_rollbacks} of {training.max_rollbacks})"
        )
        return True

    def _last_good(self):
        """Path and state, on every process, of the newest checkpoint from before the divergence, or else of the oldest.

        Raises:
            OSError, InputError: no checkpoint can be read.
        """

        def search():
            # The guard's median sees an explosion only when half of the window is behind it.
            latest = self.trainer.step - WINDOW
            path, state, damaged = self.folder.newest(lambda state: state["step"] <= latest and state["stability"]["calm"])
            for line in damaged:
                self.monitor.say(line)
            if path is None:
                path = self.folder.checkpoints()[0]
                state = read_state(path)
            self.folder.discard_after(path, self.trainer.step)
            return path, state

        return distributed.on_first(search)


def _is_better(loss, best):
    """Whether a validation loss is the best so far; one that is not finite never is, and is beaten by any that is."""
    return math.isfinite(loss) and (best is None or not best <= loss)
