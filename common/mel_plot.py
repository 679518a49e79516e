"""Pictures of log-mel spectrograms."""

from matplotlib.figure import Figure

from common.files import save_atomically


def draw_mel(axes, mel, mel_config, limits=None):
    """Draws a mel into axes: seconds to the right, mel bands upwards, bright where it is loud.

    Args:
        axes: a matplotlib `Axes`.
        mel: log-mel spectrogram, `[n_mels, frames]`, on the CPU.
        mel_config: its `model.config.MelConfig`.
        limits: values of the darkest and the brightest colour; None is the lowest and the highest value of this mel.

    Returns:
        the image, for a colour bar.
    """
    low, high = limits or limits_of(mel)
    n_mels, frames = mel.shape
    extent = (0, frames * mel_config.hop_length / mel_config.sample_rate, 0, n_mels)
    axes.set(xlabel="seconds", ylabel="mel band")
    return axes.imshow(mel.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high)


def limits_of(mel):
    """The lowest and the highest value of a mel, for other mels to be drawn in its colours."""
    return mel.min().item(), mel.max().item()


def mel_pair(recording_mel, result_mel, mel_config, title="result"):
    """A `Figure` of a recording's mel `[n_mels, frames]` above that of its result, in the recording's colours."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    for axis, mel, name in zip(axes, (recording_mel, result_mel), ("recording", title)):
        image = draw_mel(axis, mel, mel_config, limits_of(recording_mel))
        axis.set_title(name, loc="left", fontsize=10)
        axis.label_outer()
    figure.colorbar(image, ax=axes, label="log mel")
    return figure


def save_figure(figure, path):
    """Writes a figure as a `.png`, atomically; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda temporary: figure.savefig(temporary, dpi=100, format="png"), path)
