"""Griffin-Lim, a vocoder without a network, for comparison."""

import warnings

import librosa
import numpy as np
import torch

from model.mel import LogMelSpectrogram, expand

SPECTRUM_ITERATIONS = 30
TINY = 1e-30  # keeps quotients of silence finite


def invert_mel(mel, filters, n_iter=SPECTRUM_ITERATIONS):
    """The spectrum, of magnitudes or powers as the mel is, whose mel is closest to a given one.

    The distance is the Kullback-Leibler divergence, and the method its multiplicative updates (Lee & Seung, 2001): they keep the
    spectrum non-negative, and weigh an error relative to its band. Frequency bins that no band covers are 0.

    Args:
        mel: mel values, not logarithmic, `[..., n_mels, frames]`.
        filters: of the mel bands, `[n_mels, n_fft / 2 + 1]`.
        n_iter: number of updates.

    Returns:
        `[..., n_fft / 2 + 1, frames]`.
    """
    widths = filters.sum(0)[:, None].clamp(min=TINY)
    spectrum = mel.new_ones(*mel.shape[:-2], filters.shape[1], mel.shape[-1])
    for _ in range(n_iter):
        spectrum = spectrum * (filters.T @ (mel / (filters @ spectrum).clamp(min=TINY))) / widths
    return spectrum


def griffin_lim(mel, config, n_iter=32, seed=0):
    """Waveform from a log-mel spectrogram: `invert_mel` for the magnitudes, then Griffin-Lim for their phase.

    Args:
        mel: `[n_mels, frames]`.
        config: its `MelConfig`.
        n_iter: iterations of Griffin-Lim.
        seed: of the phase at the start.

    Returns:
        `[frames * hop_length]`, within [-1, 1].
    """
    filters = LogMelSpectrogram(config).spectrogram.mel_scale.fb.T.double()
    magnitude = invert_mel(expand(mel.double(), config).exp(), filters).pow(1 / config.power).numpy()
    if config.normalized:
        window = librosa.filters.get_window("hann", config.win_length)
        magnitude = magnitude * np.sqrt((window**2).sum())
    # librosa has one frame more, centred on the end.
    magnitude = np.concatenate([magnitude, magnitude[:, -1:]], axis=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=.* is too large", UserWarning)  # of a mel shorter than a window
        waveform = librosa.griffinlim(
            magnitude,
            n_iter=n_iter,
            hop_length=config.hop_length,
            win_length=config.win_length,
            n_fft=config.n_fft,
            length=mel.shape[1] * config.hop_length,
            random_state=seed,
        )
    if config.padding == "same":
        # librosa centres a frame on its first sample; these frames are centred on the middle of their hop.
        waveform = np.pad(waveform, (config.hop_length // 2, 0))[: len(waveform)]
    return torch.from_numpy(waveform).float().clamp(-1, 1)
