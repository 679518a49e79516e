"""Means over the steps between two lines of the log, and the bands of the noise level that validation losses are shown by."""

import math
import time
from statistics import fmean

N_BANDS = 4  # of equal width in the noise level, from 0 (noise) to 1 (clean)
BAND_NAMES = [f"{band / N_BANDS:g}-{(band + 1) / N_BANDS:g}" for band in range(N_BANDS)]


def means_by_name(dictionaries):
    """Means of numbers by name; NaN, such as PESQ of silence, is left out."""
    values = {}
    for dictionary in dictionaries:
        for name, value in dictionary.items():
            if not math.isnan(value):
                values.setdefault(name, []).append(value)
    return {name: fmean(of_name) for name, of_name in values.items()}


class Interval:
    """What happened since the last line of the log; skipped updates count in none of the means.

    Args:
        position: number of its first example.
    """

    def __init__(self, position):
        self.position, self.seconds, self.figures = position, 0.0, []
        self.resume_clock()

    def resume_clock(self):
        """Leaves out the time since the last step, spent on validation or saving."""
        self.mark = time.perf_counter()

    def add(self, result):
        """Takes in a `StepResult`."""
        now = time.perf_counter()
        self.seconds += now - self.mark
        self.mark = now
        if result.updated:
            self.figures.append(result.figures)

    def scalars(self, trainer):
        """Dictionary of figures, named as TensorBoard shows them; to be called on all processes."""
        figures = means_by_name(self.figures) | trainer.objective.figures()
        figures |= {"learning_rate": trainer.optimizer.param_groups[0]["lr"], "skipped_updates": trainer.guard.n_skipped}
        if trainer.scaler.is_enabled():
            figures["loss_scale"] = trainer.scaler.get_scale()
        speed = (trainer.position - self.position) / self.seconds
        return {"speed/samples_per_second": speed, **{f"train/{name}": value for name, value in figures.items()}}
