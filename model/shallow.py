"""Shallow diffusion (DiffSinger, Liu et al., 2022): the reverse process starts at an estimate of the waveform, not at noise.

The first steps, which would find the coarse shape, are left out. DiffSinger does so with mels; here the estimate is a waveform, of which
there are two kinds. One grows frame by frame (`model.mel.real_time`). The other is noise in the shape of the mel, as in SpecGrad (Koizumi
et al., 2022), and iterations of Griffin-Lim for all frames at once, as GLA-Grad does them (`model.gla_grad`).

DiffSinger adds noise to its estimate. Here its errors stand for the noise, as in Cold Diffusion (Bansal et al., 2023): they are as loud as
the speech at each frequency, and white noise is not. So the network must be trained for it, by InferGrad. A noise schedule with
`griffin_lim` starts so, any other starts at noise.
"""

import copy
import functools
import math

import torch

from common.errors import InputError
from model.mel.real_time import RealTimeGriffinLim
from model.mel.spectrum import MelSpectrum


class GriffinLimEstimate:
    """`GriffinLimEstimate(mel_config)(noise, mel, n_iter, look_ahead)` is a waveform with about that mel.

    Args:
        mel_config: the `MelConfig` of the mels.

    Raises:
        InputError: with `check` or the first use, if `model.mel.spectrum.MelSpectrum` refuses the mel or a band at its ends is empty.
    """

    def __init__(self, mel_config):
        self.mel_config, self._on = mel_config, {}

    @functools.cached_property
    def spectrum(self):
        spectrum = MelSpectrum(self.mel_config, "a noise schedule with griffin_lim")
        if not spectrum.filters[[0, -1]].any(1).all():
            raise InputError("a noise schedule with griffin_lim: the lowest or highest mel band covers no line of the spectrum")
        return spectrum

    def check(self, schedule):
        """Raises an `InputError` if a schedule wants an estimate, and the mel is none for it."""
        if schedule.griffin_lim is not None:
            _ = self.spectrum

    def context_frames(self, n_iter):
        """Number of frames on each side that a frame of the result depends on."""
        return (n_iter + 1) * self.spectrum.reach

    def spectrum_on(self, device):
        """`spectrum` on a device. Those of other devices stay there: a stream may be using them."""
        if self.spectrum.filters.device == device:
            return self.spectrum
        if device not in self._on:
            self._on[device] = copy.deepcopy(self.spectrum).to(device)
        return self._on[device]

    def in_real_time(self, n_iter, look_ahead, device="cpu"):
        """A `RealTimeGriffinLim` for mels on that device."""
        return RealTimeGriffinLim(self.spectrum_on(torch.device(device)), n_iter, look_ahead)

    @torch.no_grad()
    def __call__(self, noise, mel, n_iter, look_ahead=None):
        """Noise and mel -> waveform.

        Args:
            noise: standard normal, for the phases, `[B, T]`.
            mel: log-mel, `[B, n_mels, T / hop_length]`.
            n_iter: iterations of Griffin-Lim.
            look_ahead: frames after a frame that change with it, frame by frame; None changes all frames at once.

        Returns:
            `[B, T]`.
        """
        with torch.autocast(mel.device.type, enabled=False):
            if look_ahead is not None:
                return self.in_real_time(n_iter, look_ahead, mel.device).push(noise, mel, last=True)
            frames = self.spectrum_on(mel.device)
            target = frames.target(mel)
            return frames.griffin_lim(frames.shaped(noise, target), target, n_iter)


def start(network, mel, schedule, noise, std):
    """y_N, whitened, `[B, T]`: noise, or what equation 8 makes of an estimate without its noise.

    Args:
        network: its attribute `estimate` is a `GriffinLimEstimate`.
        noise: standard normal, `[B, T]`: y_N, or for the phases of the estimate.
        std: of the prior.
    """
    if schedule.griffin_lim is None:
        return noise
    return on_the_scale_of(schedule, network.estimate(noise, mel, schedule.griffin_lim, schedule.look_ahead), std)


def on_the_scale_of(schedule, estimate, std):
    """Equation 8 without its noise, at step N: an estimate `[B, T]` -> y_N, whitened."""
    return math.sqrt(schedule.abar(len(schedule))) * estimate / std
