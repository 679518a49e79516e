"""Griffin and Lim's phase reconstruction (1984): what a mel spectrogram gives without any network."""

import torch
from torchaudio.transforms import GriffinLim, InverseMelScale

N_ITERATIONS = 60


def griffin_lim(mel, config):
    """A waveform from a log-mel spectrogram, by least squares for the spectrum and fast Griffin-Lim for the phase.

    Starts from zero phase, so that the result is always the same.

    Args:
        mel: `[n_mels, frames]`.
        config: the `MelConfig` that it is made with.

    Returns:
        `[frames * hop_length]`, within [-1, 1].
    """
    logarithm = mel * config.std + config.mean
    mel = logarithm.exp() if config.log == "ln" else 10**logarithm
    # A LogMelSpectrogram leaves out the frame that is centred on the end; an inverse STFT wants it.
    mel = torch.cat([mel, mel[:, -1:]], dim=1)
    spectrum = InverseMelScale(
        config.n_fft // 2 + 1,
        config.n_mels,
        config.sample_rate,
        config.f_min,
        config.f_max,
        config.norm,
        config.mel_scale,
        driver="gelsd",  # mel bands narrower than a bin leave the matrix without full rank
    )(mel)
    waveform = GriffinLim(
        config.n_fft, N_ITERATIONS, config.win_length, config.hop_length, power=config.power, rand_init=False
    )(spectrum)
    length = (mel.shape[1] - 1) * config.hop_length
    return torch.nn.functional.pad(waveform, (0, length - len(waveform))).clamp(-1, 1)
