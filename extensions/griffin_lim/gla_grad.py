"""GLA-Grad (Liu et al., 2024): Griffin-Lim that starts from the phase of a generated waveform, towards the given mel;
`--gla_grad`, off by default.

The mel of a generated waveform differs a little from the mel that was given. As in GLA-Grad++ (2025), Griffin-Lim is applied once, here
to the result. Both papers take the magnitudes from a pseudo-inverse of the mel, which is smooth within each band. Here they are those of
the generated waveform, scaled until their mel is the given one, so harmonics stay as narrow as in the generated waveform.
"""

import torch
from torch import nn

from common.errors import InputError
from extensions.griffin_lim.spectrum import MelSpectrum


class GlaGrad(nn.Module):
    """`GlaGrad(mel_config, n_iter)(y, mel)` is the waveform `y` with a mel that is closer to `mel`.

    Args:
        mel_config: the `MelConfig` of the mels.
        n_iter: iterations of Griffin-Lim, 1 or more.
        spectrum: `MelSpectrum` or a subclass.

    Attributes:
        context_frames: number of frames on each side that a frame of the result depends on.

    Raises:
        InputError: n_iter is below 1, or `MelSpectrum` refuses the mel.
    """

    def __init__(self, mel_config, n_iter, spectrum=MelSpectrum):
        super().__init__()
        if n_iter < 1:
            raise InputError(f"GLA-Grad: expected 1 or more iterations, got {n_iter}")
        self.spectrum, self.n_iter = spectrum(mel_config, "GLA-Grad"), n_iter
        self.context_frames = n_iter * self.spectrum.reach

    def forward(self, y, mel):
        """`[B, frames * hop_length]` and `[B, n_mels, frames]` -> `[B, frames * hop_length]`, within [-1, 1]."""
        with torch.autocast(y.device.type, enabled=False):
            y, target = y.float(), self.spectrum.target(mel)
            return self.spectrum.griffin_lim(y, target, self.n_iter).clamp(-1, 1)
