"""Log-mel spectrograms: one definition for training, inference and the checkpoint."""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.transforms import MelSpectrogram

from common.errors import InputError

RANGE_TOLERANCE = 0.01  # rounding of features that were stored in half precision


def log_unit(config):
    """The unit of the logarithm of a `MelConfig`, before any normalisation, in natural logarithms: 1 for ln, 2.3 for log10."""
    return {"ln": 1.0, "log10": math.log(10), "db": math.log(10) * config.power / 20}[config.log]


def compress(logarithm, config):
    """Natural logarithms of mel values -> features on the scale of a `MelConfig`, of any shape: floor, logarithm and normalisation."""
    if config.clamp == "before":
        logarithm = logarithm.clamp(min=math.log(config.clamp_min))
    features = (logarithm / log_unit(config) - config.mean) / config.std
    return features if config.clip is None else features.clamp(*config.clip)


def expand(features, config):
    """The inverse of `compress`: features -> natural logarithms of mel values, of any shape. It does not restore what was clamped."""
    return (features * config.std + config.mean) * log_unit(config)


class LogMelSpectrogram(nn.Module):
    """Waveform -> log-mel spectrogram with `hop_length` samples per frame, exactly.

    Args:
        config: a `model.config.MelConfig`.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty bands, in other words than ours: see `empty_bands`
            self.spectrogram = MelSpectrogram(
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                win_length=config.win_length,
                hop_length=config.hop_length,
                f_min=config.f_min,
                f_max=config.f_max,
                n_mels=config.n_mels,
                # The offset belongs to the power spectrum, whatever the power of the mel.
                power=2.0 if config.spectrum_offset else config.power,
                normalized=config.normalized,
                norm=config.norm,
                mel_scale=config.mel_scale,
                center=False,
            )
        # With "center" a frame is centred on its first sample; the frame that would be centred on the end is left out.
        margin = config.n_fft - config.hop_length
        left = config.n_fft // 2 if config.padding == "center" else margin // 2
        self.context = (left, margin - left)

    def forward(self, waveform):
        """`[..., T]` -> `[..., n_mels, T // hop_length]`; samples short of a whole frame at the end are ignored.

        Raises:
            InputError: the waveform is shorter than half a window.
        """
        samples = waveform.shape[-1] // self.config.hop_length * self.config.hop_length
        if samples <= max(self.context):
            raise InputError(f"{waveform.shape[-1]} samples are too short for a mel spectrogram (wanted: more than {max(self.context)})")
        waveform = waveform[..., :samples]
        batched = waveform.reshape(1, -1, samples)  # reflection needs three dimensions
        padded = F.pad(batched, self.context, mode=self.config.pad_mode).reshape(*waveform.shape[:-1], -1)
        return self.from_padded(padded)

    def from_padded(self, waveform):
        """As `forward`, for a waveform `[..., left + T + right]` that already has its `context` of samples on both sides."""
        spectrum = self.spectrogram.spectrogram(waveform)
        if self.config.spectrum_offset:
            spectrum = (spectrum + self.config.spectrum_offset) ** (self.config.power / 2)
        mel = self.spectrogram.mel_scale(spectrum)
        if self.config.clamp == "before":
            logarithm = mel.clamp(min=self.config.clamp_min).log()
        else:
            logarithm = torch.where(mel == 0, torch.zeros_like(mel), mel.log())
        return compress(logarithm, self.config)

    def band_widths(self):
        """Sum of each band's filter, `[n_mels]`: the mel of a spectrum of ones."""
        return self.spectrogram.mel_scale.fb.sum(0)

    @property
    def empty_bands(self):
        """One line if there are bands that no line of the spectrum is in, else None."""
        n_empty = int((self.band_widths() == 0).sum())
        if n_empty == 0:
            return None
        config = self.config
        return f"{n_empty} of {config.n_mels} mel bands are empty (wanted: a smaller mel.n_mels, or a larger mel.n_fft than {config.n_fft})"

    def range(self):
        """The smallest and largest value that the mel of a waveform within [-1, 1] can have.

        The largest is that of all the energy of the window in the widest band; the smallest is -infinity where nothing clamps.
        """
        window = self.spectrogram.spectrogram.window.double()
        amplitude = window.sum() / window.square().sum().sqrt() if self.config.normalized else window.sum()
        largest = amplitude.log() * self.config.power + self.band_widths().max().log()
        return tuple(compress(value, self.config).item() for value in (torch.tensor(-math.inf), largest))

    def misfit(self, mel):
        """One line if `mel` cannot be on this scale, else None."""
        low, high = self.range()
        found_low, found_high = mel.min().item(), mel.max().item()
        if low - RANGE_TOLERANCE <= found_low and found_high <= high + RANGE_TOLERANCE:
            return None
        return (
            f"values from {found_low:.3g} to {found_high:.3g} cannot be on the model's mel scale "
            f"(wanted: within {low:.3g} to {high:.3g}, {self.config.log} of mel power {self.config.power:g})"
        )
