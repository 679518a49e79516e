"""When has a training run gone wrong beyond what skipping a few updates can mend?"""

import math
from collections import deque
from statistics import median

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
            loss: the loss of the step, over all processes.
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

    def begin_anew(self):
        """Forgets the losses so far, which were those of other data."""
        self.skipped_in_a_row = 0
        self.recent.clear()
        self.lowest = None

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
