"""What keeps a run safe: divergence is noticed, signals end it after a step, and errors of the machine are one line."""

import contextlib
import math
import os
import signal
from collections import deque
from statistics import median

from common.errors import InputError, is_out_of_memory
from training import distributed

STOPPING = {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
WINDOW = 50  # updates; single losses vary several-fold with the noise levels drawn, so the median of many is judged
LOSS_OF_SILENCE = math.sqrt(2 / math.pi)  # E|noise|: the loss of a network that always predicts zero


class StabilityGuard:
    """Watches the losses of a run.

    Args:
        skip_limit: so many updates skipped in a row are too many.
        explosion_factor: a median loss so many times the lowest one so far is an explosion.
    """

    def __init__(self, skip_limit, explosion_factor):
        self.skip_limit = skip_limit
        self.explosion_factor = explosion_factor
        self.n_skipped = 0
        self.skipped_in_a_row = 0
        self.recent = deque(maxlen=WINDOW)
        self.lowest = None

    @property
    def level(self):
        """Median of the last losses over the lowest such median, or 1 as long as there are too few."""
        return median(self.recent) / self.lowest if len(self.recent) == WINDOW else 1.0

    @property
    def calm(self):
        """Whether nothing points to a divergence, so that a checkpoint of this moment is one to go back to."""
        return self.skipped_in_a_row == 0 and self.level <= math.sqrt(self.explosion_factor)

    def observe(self, loss, updated):
        """Takes in one step.

        Args:
            loss: the diffusion loss of the step, over all processes; None where it is not part of the objective.
            updated: whether the update was made, not skipped.

        Returns:
            what is wrong, in words, or None.
        """
        if not updated:
            self.n_skipped += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= self.skip_limit:
                return f"loss or gradient was not finite {self.skipped_in_a_row} times in a row"
            return None
        self.skipped_in_a_row = 0
        if loss is None:
            return None
        self.recent.append(loss)
        if self.lowest is None:
            self.lowest = max(loss, LOSS_OF_SILENCE)
        if len(self.recent) < WINDOW:
            return None
        level = self.level
        self.lowest = min(self.lowest, median(self.recent))
        if level > self.explosion_factor:
            return f"the loss is {level:.1f} times its lowest value (median of {WINDOW} steps)"
        return None

    def state_dict(self):
        return {
            "calm": self.calm,
            "n_skipped": self.n_skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "recent": list(self.recent),
            "lowest": self.lowest,
        }

    def load_state_dict(self, state):
        self.n_skipped = state["n_skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.recent = deque(state["recent"], maxlen=WINDOW)
        self.lowest = state["lowest"]


class StopSignal:
    """Graceful shutdown: while entered, SIGTERM, SIGHUP and SIGINT set `received` to their name, and the run ends after the step.

    One that is ignored stays so, as SIGHUP does under nohup. A process that torchrun started also stops when torchrun is gone,
    because nobody else would end it.
    """

    def __enter__(self):
        self.received = None
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.received = signal.Signals(number).name

    def check(self):
        """Returns why this process should stop, or None."""
        if self._parent is not None and os.getppid() != self._parent:
            return "the end of torchrun"
        return self.received


@contextlib.contextmanager
def explained_out_of_memory(training):
    """Turns PyTorch's out-of-memory errors into an `InputError` that names the keys to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"process {distributed.rank()}: out of memory: expected a smaller training.micro_batch_size, or "
            f"training.activation_checkpointing, got {training.micro_batch_size}"
        ) from None
