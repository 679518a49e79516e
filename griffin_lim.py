"""Griffin-Lim: the vocoder without a network that every other one is measured against."""

import librosa
import numpy as np
import torch


def griffin_lim(mel, config, n_iter=32, seed=0):
    """Waveform from a log-mel spectrogram: non-negative least squares for the spectrogram, then Griffin-Lim for its phase.

    Args:
        mel: `[n_mels, frames]`.
        config: the `MelConfig` that the mel is defined by.

    Returns:
        `[frames * hop_length]`, within [-1, 1].
    """
    logarithm = mel.double().numpy() * config.std + config.mean
    spectrum = np.exp(logarithm) if config.log == "ln" else 10.0**logarithm
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
    # librosa counts one frame more, centred on the end.
    magnitude = np.concatenate([magnitude, magnitude[:, -1:]], axis=1)
    waveform = librosa.griffinlim(
        magnitude,
        n_iter=n_iter,
        hop_length=config.hop_length,
        win_length=config.win_length,
        n_fft=config.n_fft,
        length=mel.shape[1] * config.hop_length,
        random_state=seed,
    )
    return torch.from_numpy(waveform).float().clamp(-1, 1)
