"""Shallow diffusion (DiffSinger, Liu et al., 2022): the reverse process starts at a noisy estimate of the waveform, not at noise.

The estimate is cheap and the first steps, which would find the coarse shape, are left out. Here it is Griffin-Lim's: the magnitudes whose
mel is closest to the given one, and phases that start from noise. Without an iteration it is noise in the shape of the spectrum, as in
SpecGrad (Koizumi et al., 2022). A noise schedule with `griffin_lim` starts so, any other starts at noise.
"""

import functools
import math

import torch

from model.mel.griffin_lim import invert_mel
from model.mel.spectrum import MOMENTUM, MelSpectrum, with_magnitude

SPECTRUM_ITERATIONS = 10  # of `invert_mel`; more change PESQ by less than .01


class GriffinLimEstimate:
    """`GriffinLimEstimate(mel_config)(noise, mel, n_iter)` is a waveform with about that mel.

    Args:
        mel_config: the `MelConfig` of the mels.

    Raises:
        InputError: with the first use, if `model.mel.spectrum.MelSpectrum` refuses the mel.
    """

    def __init__(self, mel_config):
        self.mel_config = mel_config

    @functools.cached_property
    def spectrum(self):
        return MelSpectrum(self.mel_config, "a noise schedule with griffin_lim")

    def context_frames(self, n_iter):
        """Number of frames on each side that a frame of the result depends on."""
        return (n_iter + 1) * self.spectrum.reach

    @torch.no_grad()
    def __call__(self, noise, mel, n_iter):
        """Noise `[B, T]` for the phases, log-mel `[B, n_mels, T / hop_length]`, and iterations of Griffin-Lim -> waveform `[B, T]`."""
        with torch.autocast(mel.device.type, enabled=False):
            frames = self.spectrum.to(mel.device)
            power = invert_mel(frames.target(mel), frames.filters, SPECTRUM_ITERATIONS)
            magnitude = power.pow(1 / frames.config.power)
            silence, before = torch.zeros_like(noise), None
            y = frames.istft(with_magnitude(frames.stft(noise), magnitude), silence)
            for _ in range(n_iter):
                consistent = frames.stft(y)
                spectrum = consistent if before is None else consistent + MOMENTUM * (consistent - before)
                y, before = frames.istft(with_magnitude(spectrum, magnitude), silence), consistent
            return y


def whitened_estimate(network, mel, schedule, noises, std):
    """The whitened estimate `[B, T]` that a schedule starts from, or None where it starts at noise.

    Args:
        network: its attribute `estimate` is a `GriffinLimEstimate`.
        noises: iterator of standard normal `[B, T]`; the next one is taken if there is an estimate.
        std: of the prior.
    """
    return None if schedule.griffin_lim is None else network.estimate(next(noises), mel, schedule.griffin_lim) / std


def start(schedule, noise, estimate):
    """y_N, whitened: noise, or q(y_N | estimate) by equation 8."""
    if estimate is None:
        return noise
    abar_N = schedule.abar(len(schedule))
    return math.sqrt(abar_N) * estimate + math.sqrt(1 - abar_N) * noise
