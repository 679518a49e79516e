"""How far generated speech is from its recording, as an objective: in the spectrum, for only that is given by the mel.

Three distances of magnitudes, which weigh errors differently, over several resolutions. Short windows see whether the harmonics
of a voice agree in phase, long ones whether they keep their frequency.
"""

import torch
from torch import nn
from torchaudio.transforms import MelScale

# (n_fft, hop, window), Yamamoto et al., 2020 (Parallel WaveGAN), section 3.1.
STFT_RESOLUTIONS = [(1024, 120, 600), (2048, 240, 1200), (512, 50, 240)]
STFT_FLOOR = 1e-5  # magnitude; keeps digital silence from dominating the logarithm
CONVERGENCE_FLOOR = 3e-3  # RMS magnitude, of white noise at about -70 dBFS; keeps what is softer from dominating its batch
WINDOWS = (256, 512, 1024, 2048)  # samples, each with a hop of a quarter
MEL_BANDS_PER_SAMPLE = 80 / 1024  # of the window, so that a band is about as wide as a line of the spectrum where it is narrowest
MEL_FLOOR = 1e-5  # magnitude in a band, below which nothing is told apart; as in the mel that HiFi-GAN compares
COMPRESSION = 0.3  # exponent of magnitudes that makes them about as loud as they sound (Braun & Tashev, 2020)
POWER_FLOOR = 1e-5  # keeps the slope of the compression finite in silence
MEL_CORNER = 700.0  # Hz, where the mel scale turns from linear to logarithmic: a line counts by its width in mel
STFT_WEIGHT, MEL_WEIGHT, COMPRESSED_WEIGHT = 0.3, 1.0, 4.0  # chosen by the runs of docs/journal/README.md


def multi_resolution_stft_distance(reference, generated):
    """Spectral convergence plus L1 of ln magnitudes, the mean over three resolutions (Yamamoto et al., 2020).

    The convergence is relative to the reference, or to `CONVERGENCE_FLOOR` where that is more.

    Args:
        reference, generated: `[B, T]`, T above 1024.

    Returns:
        `[B]`.
    """
    distances = []
    for n_fft, hop_length, win_length in STFT_RESOLUTIONS:
        window = torch.hann_window(win_length, device=reference.device)
        a, b = (
            torch.stft(waveform, n_fft, hop_length, win_length, window, return_complex=True).abs().clamp(min=STFT_FLOOR)
            for waveform in (reference, generated)
        )
        least = CONVERGENCE_FLOOR * a[0].numel() ** 0.5
        convergence = torch.linalg.matrix_norm(a - b) / torch.linalg.matrix_norm(a).clamp(min=least)
        distances.append(convergence + (a.log() - b.log()).abs().mean(dim=(-2, -1)))
    return sum(distances) / len(distances)


class SpectralDistance(nn.Module):
    """`0.3 stft + mel + 4 compressed`, where

    - stft is the distance of `multi_resolution_stft_distance`: every line of the spectrum counts by its ratio;
    - mel is the L1 distance of log-mel spectrograms at several resolutions (Kumar et al., 2023), in ln;
    - compressed is the L1 distance of magnitudes to the power of 0.3, relative to the recording's, each line by its width in mel:
      what is loud counts for more, and what is below 1.8 kHz for half (at 16 kHz).

    Args:
        sample_rate: in Hz.
    """

    # Samples that are reflected at the ends: a waveform must be longer.
    longest_reflection = max(*(window // 2 for window in WINDOWS), *(n_fft // 2 for n_fft, _, _ in STFT_RESOLUTIONS))

    def __init__(self, sample_rate):
        super().__init__()
        self.mel_scales = nn.ModuleList(
            MelScale(round(window * MEL_BANDS_PER_SAMPLE), sample_rate, n_stft=window // 2 + 1, norm="slaney", mel_scale="slaney")
            for window in WINDOWS
        )
        for window in WINDOWS:
            frequencies = torch.linspace(0, sample_rate / 2, window // 2 + 1)
            self.register_buffer(f"hann_{window}", torch.hann_window(window))
            self.register_buffer(f"weight_{window}", (1 / (1 + frequencies / MEL_CORNER))[:, None])

    def _magnitudes(self, waveform, window):
        hann = self.get_buffer(f"hann_{window}")
        return torch.stft(waveform, window, window // 4, window=hann, return_complex=True).abs()

    def forward(self, reference, generated):
        """`[B, T]` and `[B, T]` -> `[B]`; gradients flow back to both."""
        mel_distance, compressed_distance = 0.0, 0.0
        for window, mel_scale in zip(WINDOWS, self.mel_scales):
            a, b = self._magnitudes(reference, window), self._magnitudes(generated, window)
            mel_a, mel_b = (mel_scale(x).clamp(min=MEL_FLOOR).log() for x in (a, b))
            mel_distance = mel_distance + (mel_a - mel_b).abs().mean((-2, -1))
            weight = self.get_buffer(f"weight_{window}")
            a, b = (weight * (x.square() + POWER_FLOOR).pow(COMPRESSION / 2) for x in (a, b))
            compressed_distance = compressed_distance + (a - b).abs().sum((-2, -1)) / a.sum((-2, -1))
        stft_distance = multi_resolution_stft_distance(reference, generated)
        means = MEL_WEIGHT * mel_distance + COMPRESSED_WEIGHT * compressed_distance
        return STFT_WEIGHT * stft_distance + means / len(WINDOWS)
