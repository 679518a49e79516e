"""GLA-Grad (Liu et al., 2024): Griffin-Lim that starts from the phase of a generated waveform, towards the magnitudes of the given mel.

The mel of a generated waveform differs a little from the mel that was given. As in GLA-Grad++ (2025), Griffin-Lim is applied once, here
to the result. Both papers take the magnitudes from a pseudo-inverse of the mel, which is smooth within each band. Here they are those of
the generated waveform, scaled until their mel is the given one, so harmonics stay as narrow as in the generated waveform.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InputError
from model.mel.transform import LogMelSpectrogram, expand

MOMENTUM = 0.9  # of fast Griffin-Lim (Perraudin et al., 2013)
SCALINGS = 4  # multiplicative updates of the magnitudes towards the mel, in each iteration
LEAST_GAIN, MOST_GAIN = 0.05, 20.0  # of one update of the power spectrum
TINY = 1e-9  # keeps quotients of silence finite


class GlaGrad(nn.Module):
    """`GlaGrad(mel_config, n_iter)(y, mel)` is the waveform `y` with a mel that is closer to `mel`.

    Args:
        mel_config: the `MelConfig` of the mels.
        n_iter: iterations of Griffin-Lim, 1 or more.

    Attributes:
        context_frames: number of frames on each side that a frame of the result depends on.

    Raises:
        InputError: n_iter is below 1, or windows overlap by half or less, which is too little for Griffin-Lim.
    """

    def __init__(self, mel_config, n_iter):
        super().__init__()
        if n_iter < 1:
            raise InputError(f"GLA-Grad has {n_iter} iterations (wanted: 1 or more)")
        if mel_config.win_length <= 2 * mel_config.hop_length:
            raise InputError(
                f"GLA-Grad: mel.win_length is {mel_config.win_length} (wanted: more than twice mel.hop_length, "
                f"which is {mel_config.hop_length})"
            )
        self.config, self.n_iter = mel_config, n_iter
        self.context_frames = n_iter * math.ceil(mel_config.win_length / mel_config.hop_length)
        mel_transform = LogMelSpectrogram(mel_config)
        self.margins = mel_transform.context
        self.first_centre = mel_config.n_fft // 2 - mel_transform.context[0]  # the sample that the first frame is centred on
        filters = mel_transform.spectrogram.mel_scale.fb.T.clone()
        self.register_buffer("window", mel_transform.spectrogram.spectrogram.window.clone())
        self.register_buffer("filters", filters)  # [n_mels, n_fft / 2 + 1]
        self.register_buffer("widths", filters.sum(0)[:, None])
        self.unit = self.window.square().sum().sqrt().item() ** mel_config.power if mel_config.normalized else 1.0

    def _stft(self, y):
        """`[B, T]` -> `[B, n_fft / 2 + 1, frames]`, the frames of the mel."""
        mode = self.config.pad_mode if y.shape[-1] > max(self.margins) else "constant"
        padded = F.pad(y[None], self.margins, mode=mode)[0]
        config = self.config
        return torch.stft(padded, config.n_fft, config.hop_length, config.win_length, self.window, center=False, return_complex=True)

    def _istft(self, spectrum, y):
        """The waveform `[B, T]` of a spectrum; the samples before the centre of the first frame are those of `y`."""
        config, start = self.config, self.first_centre
        length = y.shape[-1] - start
        waveform = torch.istft(spectrum, config.n_fft, config.hop_length, config.win_length, self.window, length=length)
        return torch.cat([y[..., :start], waveform], -1)

    def _scale(self, magnitude, target):
        """Magnitudes `[B, n_fft / 2 + 1, frames]`, scaled bin by bin until their mel is close to `target`, `[B, n_mels, frames]`."""
        power = magnitude.pow(self.config.power)
        for _ in range(SCALINGS):
            of_band = target / (self.filters @ power).clamp(min=TINY)
            gain = (self.filters.T @ of_band) / self.widths.clamp(min=TINY)
            gain = torch.where(self.widths > TINY, gain.clamp(LEAST_GAIN, MOST_GAIN), 1.0)  # bins of no band stay as they are
            power = gain * power
        return power.pow(1 / self.config.power)

    def forward(self, y, mel):
        """`[B, frames * hop_length]` and `[B, n_mels, frames]` -> `[B, frames * hop_length]`, within [-1, 1]."""
        with torch.autocast(y.device.type, enabled=False):
            y = y.float()
            target = expand(mel.float(), self.config).exp() * self.unit
            spectrum, before = self._stft(y), None
            for i in range(self.n_iter):
                magnitude = spectrum.abs()
                y = self._istft(spectrum * (self._scale(magnitude, target) / magnitude.clamp(min=TINY)), y)
                if i + 1 < self.n_iter:
                    consistent = self._stft(y)
                    spectrum = consistent if before is None else consistent + MOMENTUM * (consistent - before)
                    before = consistent
            return y.clamp(-1, 1)
