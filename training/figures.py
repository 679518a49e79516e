"""Figures for TensorBoard."""

import numpy as np
from matplotlib.figure import Figure


def schedule_figure(training_schedule, preview_schedule):
    """The noise level over the steps of the training schedule, and the levels that previews are sampled at."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for schedule, style in [(training_schedule, "-"), (preview_schedule, "o")]:
        position = np.arange(1, len(schedule) + 1) / len(schedule)
        axis.plot(position, schedule.noise_levels, style, label=schedule.name)
    axis.set(xlabel="n / N", ylabel="noise level (1 = clean)", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
