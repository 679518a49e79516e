"""Figures for TensorBoard."""

import numpy as np
from matplotlib.figure import Figure


def mel_figure(recording_mel, result_mel):
    """A recording's log-mel spectrogram `[n_mels, frames]` above its resynthesis's, in the same colours."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    low, high = recording_mel.min().item(), recording_mel.max().item()
    for axis, mel, title in zip(axes, (recording_mel, result_mel), ("recording", "result")):
        image = axis.imshow(mel.numpy(), origin="lower", aspect="auto", vmin=low, vmax=max(high, low + 1e-3))
        axis.set(title=title, ylabel="mel band")
    axes[-1].set_xlabel("frame")
    figure.colorbar(image, ax=axes, label="normalised log mel")
    return figure


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
