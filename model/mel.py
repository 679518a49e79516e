"""Log-mel spectrograms: one definition for training, inference and the checkpoint."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.transforms import MelSpectrogram

from model.errors import InputError

RANGE_TOLERANCE = 0.01  # rounding of features that were stored in half precision


class LogMelSpectrogram(nn.Module):
    """Waveform -> log-mel spectrogram with `hop_length` samples per frame, exactly.

    Args:
        config: a `model.config.MelConfig`.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.spectrogram = MelSpectrogram(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            win_length=config.win_length,
            hop_length=config.hop_length,
            f_min=config.f_min,
            f_max=config.f_max,
            n_mels=config.n_mels,
            power=config.power,
            norm=config.norm,
            mel_scale=config.mel_scale,
            center=False,
        )
        # A frame is centred on its first sample; the frame centred on the end is left out.
        self.context = (config.n_fft // 2, config.n_fft // 2 - config.hop_length)

    def forward(self, waveform):
        """`[..., T]` -> `[..., n_mels, T // hop_length]`; samples short of a whole frame at the end are ignored.

        Raises:
            InputError: the waveform is shorter than half a window.
        """
        samples = waveform.shape[-1] // self.config.hop_length * self.config.hop_length
        if samples <= self.context[0]:
            raise InputError(
                f"{waveform.shape[-1]} samples are too short for a mel spectrogram (wanted: more than {self.context[0]})"
            )
        waveform = waveform[..., :samples]
        batched = waveform.reshape(1, -1, samples)  # reflection wants three dimensions
        padded = F.pad(batched, self.context, mode="reflect").reshape(*waveform.shape[:-1], -1)
        return self.from_padded(padded)

    def from_padded(self, waveform):
        """As `forward`, of a waveform that brings `context` samples of its surroundings on its left and right."""
        mel = self.spectrogram(waveform)
        logarithm = torch.log if self.config.log == "ln" else torch.log10
        if self.config.clamp == "before":
            mel = logarithm(mel.clamp(min=self.config.clamp_min))
        else:
            mel = logarithm(mel)
            mel = torch.where(torch.isinf(mel), torch.zeros_like(mel), mel)
        return (mel - self.config.mean) / self.config.std

    def range(self):
        """The smallest and largest value that this definition can give a waveform within [-1, 1].

        The largest has the whole window's energy in the widest band; the smallest is -infinity where nothing clamps.
        """
        window, filters = self.spectrogram.spectrogram.window, self.spectrogram.mel_scale.fb
        largest = window.sum().item() ** self.config.power * filters.sum(0).max().item()
        logarithm = math.log if self.config.log == "ln" else math.log10
        smallest = logarithm(self.config.clamp_min) if self.config.clamp == "before" else -math.inf
        return tuple((value - self.config.mean) / self.config.std for value in (smallest, logarithm(largest)))

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
