"""Shallow diffusion (DiffSinger, Liu et al., 2022): sampling starts at an estimate of the waveform, not at noise;
`griffin_lim` in a noise schedule, off by default.

A noise schedule with `griffin_lim` starts so. The first steps, which would find the coarse shape, are left out. DiffSinger does so with
mels; here the estimate is a waveform, of which there are two kinds. One grows frame by frame (`real_time`). The other is noise in the shape
of the mel, as in SpecGrad (Koizumi et al., 2022), and iterations of Griffin-Lim for all frames at once, as GLA-Grad does them (`gla_grad`).

DiffSinger adds noise to its estimate. Here its errors stand for the noise, as in Cold Diffusion (Bansal et al., 2023): they are as loud as
the speech at each frequency, and white noise is not. So the network must be trained for it, by InferGrad.
"""

import torch
from torch import nn

from common.errors import InputError
from extensions.griffin_lim.spectrum import MelSpectrum

USER = "a noise schedule with griffin_lim"


class GriffinLimEstimate(nn.Module):
    """`GriffinLimEstimate(spectrum, n_iter)(noise, mel)` is a waveform with about that mel.

    Args:
        spectrum: a `MelSpectrum` of the mels.
        n_iter: iterations of Griffin-Lim, 0 or more, for all frames at once.

    Attributes:
        context_frames: number of frames on each side that a frame of the result depends on.
    """

    def __init__(self, spectrum, n_iter):
        super().__init__()
        self.spectrum, self.n_iter = spectrum, n_iter
        self.context_frames = (n_iter + 1) * spectrum.reach

    @torch.no_grad()
    def forward(self, noise, mel):
        """Standard normal noise for the phases, `[B, T]`, and log-mel, `[B, n_mels, T / hop_length]` -> `[B, T]`."""
        with torch.autocast(mel.device.type, enabled=False):
            target = self.spectrum.target(mel)
            return self.spectrum.griffin_lim(self.spectrum.shaped(noise, target), target, self.n_iter)


class RealTimeEstimate(nn.Module):
    """As `GriffinLimEstimate`, made frame by frame (`RealTimeGriffinLim`).

    Args:
        look_ahead: frames after a frame that change with it.
    """

    def __init__(self, spectrum, n_iter, look_ahead):
        super().__init__()
        self.spectrum, self.n_iter, self.look_ahead = spectrum, n_iter, look_ahead

    def forward(self, noise, mel):
        return self.begin().push(noise, mel, last=True)

    def begin(self):
        """The state of a stream; it is on the CPU."""
        from extensions.griffin_lim.real_time import RealTimeGriffinLim  # imports Numba, which takes a second

        return RealTimeGriffinLim(self.spectrum, self.n_iter, self.look_ahead)


def make_start(schedule, mel_config, spectrum=MelSpectrum):
    """The estimate that a `NoiseSchedule` starts from, a part of a `model.pipeline.Pipeline`; None if it starts at noise.

    Args:
        mel_config: the `MelConfig` of the mels.
        spectrum: `MelSpectrum` or a subclass.

    Raises:
        InputError: `MelSpectrum` refuses the mel, or a band at its ends is empty.
    """
    if schedule.griffin_lim is None:
        return None
    spectrum = spectrum(mel_config, USER)
    if not spectrum.filters[[0, -1]].any(1).all():
        raise InputError(f"{USER}: the lowest or highest mel band covers no line of the spectrum")
    if schedule.look_ahead is None:
        return GriffinLimEstimate(spectrum, schedule.griffin_lim)
    return RealTimeEstimate(spectrum, schedule.griffin_lim, schedule.look_ahead)
