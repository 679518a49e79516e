"""Griffin-Lim: the vocoder without a network that every other one is measured against."""

import warnings

import librosa
import numpy as np
import torch

from model.mel.transform import expand


def griffin_lim(mel, config, n_iter=32, seed=0):
    """Waveform from a log-mel spectrogram: non-negative least squares for the spectrogram, then Griffin-Lim for its phase.

    Args:
        mel: `[n_mels, frames]`.
        config: the `MelConfig` that the mel is defined by.

    Returns:
        `[frames * hop_length]`, within [-1, 1].
    """
    spectrum = expand(mel.double(), config).exp().numpy()
    magnitude = librosa.feature.inverse.mel_to_stft(
        spectrum,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        power=config.power,
        fmin=config.f_min,
        fmax=config.f_max,
        htk=config.mel_scale == "htk",
        norm=config.norm,
    )
    if config.normalized:
        window = librosa.filters.get_window("hann", config.win_length)
        magnitude = magnitude * np.sqrt((window**2).sum())
    # librosa counts one frame more, centred on the end.
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
        # librosa takes a frame to be centred on its first sample, but these are on the middle of their hop.
        waveform = np.pad(waveform, (config.hop_length // 2, 0))[: len(waveform)]
    return torch.from_numpy(waveform).float().clamp(-1, 1)
