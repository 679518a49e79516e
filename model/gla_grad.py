"""GLA-Grad (Liu et al., 2024): Griffin-Lim that starts from the phase of a generated waveform, towards the magnitudes of the given mel.

The mel of a generated waveform differs a little from the mel that was given. As in GLA-Grad++ (2025), Griffin-Lim is applied once, here
to the result. Both papers take the magnitudes from a pseudo-inverse of the mel, which is smooth within each band. Here they are those of
the generated waveform, scaled until their mel is the given one, so harmonics stay as narrow as in the generated waveform.
"""

import torch
from torch import nn

from common.errors import InputError
from model.mel.spectrum import MOMENTUM, TINY, MelSpectrum, with_magnitude

SCALINGS = 4  # multiplicative updates of the magnitudes towards the mel, in each iteration
LEAST_GAIN, MOST_GAIN = 0.05, 20.0  # of one update of the power spectrum


class GlaGrad(nn.Module):
    """`GlaGrad(mel_config, n_iter)(y, mel)` is the waveform `y` with a mel that is closer to `mel`.

    Args:
        mel_config: the `MelConfig` of the mels.
        n_iter: iterations of Griffin-Lim, 1 or more.

    Attributes:
        context_frames: number of frames on each side that a frame of the result depends on.

    Raises:
        InputError: n_iter is below 1, or `model.mel.spectrum.MelSpectrum` refuses the mel.
    """

    def __init__(self, mel_config, n_iter):
        super().__init__()
        if n_iter < 1:
            raise InputError(f"GLA-Grad has {n_iter} iterations (wanted: 1 or more)")
        self.spectrum, self.n_iter = MelSpectrum(mel_config, "GLA-Grad"), n_iter
        self.context_frames = n_iter * self.spectrum.reach

    def _scale(self, magnitude, target):
        """Magnitudes `[B, n_fft / 2 + 1, frames]`, scaled bin by bin until their mel is close to `target`, `[B, n_mels, frames]`."""
        filters, widths, exponent = self.spectrum.filters, self.spectrum.widths, self.spectrum.config.power
        power = magnitude.pow(exponent)
        for _ in range(SCALINGS):
            of_band = target / (filters @ power).clamp(min=TINY)
            gain = (filters.T @ of_band) / widths.clamp(min=TINY)
            gain = torch.where(widths > TINY, gain.clamp(LEAST_GAIN, MOST_GAIN), 1.0)  # bins of no band stay as they are
            power = gain * power
        return power.pow(1 / exponent)

    def forward(self, y, mel):
        """`[B, frames * hop_length]` and `[B, n_mels, frames]` -> `[B, frames * hop_length]`, within [-1, 1]."""
        with torch.autocast(y.device.type, enabled=False):
            y, target = y.float(), self.spectrum.target(mel)
            spectrum, before = self.spectrum.stft(y), None
            for i in range(self.n_iter):
                y = self.spectrum.istft(with_magnitude(spectrum, self._scale(spectrum.abs(), target)), y)
                if i + 1 < self.n_iter:
                    consistent = self.spectrum.stft(y)
                    spectrum = consistent if before is None else consistent + MOMENTUM * (consistent - before)
                    before = consistent
            return y.clamp(-1, 1)
