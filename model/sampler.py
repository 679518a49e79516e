"""The reverse process: from noise to a waveform, given a network, a mel and a noise schedule (WaveGrad, section 2 and algorithm 2).

y_N is noise, y_0 the waveform, and step n leads from y_n to y_{n-1}. abar_n is the product of the alphas up to step n; abar_0 is 1.
The waveforms are whitened (`model.prior`); without a prior these are the waveforms themselves.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from common.device import finest_float
from common.errors import InputError
from model import shallow


def standard_normal(shape, generator=None, device=None):
    """An endless iterator of standard normal tensors, drawn on the generator's device and moved to `device`."""
    source = generator.device if generator is not None else device
    while True:
        yield torch.randn(shape, generator=generator, device=source).to(device)


def predict_y_0(network, y_n, mel, schedule, n, limit=1.0):
    """The clean waveform that the network estimates in y_n, within [-limit, limit].

    Algorithm 2 does not limit it. A waveform is within [-1, 1], and without the limit an error of one step can grow in the next ones.

    Args:
        network: called as `network(y_n, mel, noise_level)`.
        y_n: noisy waveform, whitened, `[B, T]`.
        mel: log-mel spectrogram, `[B, n_mels, frames]`.
        schedule, n: the `NoiseSchedule` and the step, N to 1.
        limit: 1, or 1 / std under a prior; a number or `[B, T]`.

    Returns:
        y_0, whitened, `[B, T]`.
    """
    abar_n = schedule.abar(n)
    noise_level = torch.full((y_n.shape[0],), math.sqrt(abar_n), dtype=finest_float(y_n.device), device=y_n.device)
    # y_n = sqrt(abar_n) y_0 + sqrt(1 - abar_n) epsilon (equation 8), solved for y_0 at the predicted epsilon
    epsilon = network(y_n, mel, noise_level)
    y_0 = (y_n - math.sqrt(1 - abar_n) * epsilon) / math.sqrt(abar_n)
    return y_0.clamp(-limit, limit)


class Sampler(NamedTuple):
    """A method for the step from y_n to y_{n-1}, and for all steps from noise to a waveform.

    Order 1 with eta 1 is ancestral sampling (WaveGrad, algorithm 2). With equation 8 for epsilon, and sigma_n as in `step`, the step
    below is line 4 of algorithm 2: y_{n-1} = (y_n - (1 - alpha_n) / sqrt(1 - abar_n) epsilon) / sqrt(alpha_n) + sigma_n z.

    Args:
        order: 1, DDIM (Song et al., 2021); 2, DPM-Solver++(2M) (Lu et al., 2022, algorithm 2).
        eta: sigma_n as a share of that of ancestral sampling, 0 to 1. 0 adds no noise: the step then solves the ODE.
    """

    order: int
    eta: float

    @np.errstate(divide="ignore", invalid="ignore")  # a beta that vanishes beside 1 gives NaN, which the waveform's check finds
    def step(self, schedule, n, y_n, y_0, last_y_0, draw):
        """One step of the reverse process.

        Args:
            schedule, n: the `NoiseSchedule` and the step, N to 1.
            y_n: of any shape, which all tensors here have.
            y_0: the estimate of the clean waveform in y_n.
            last_y_0: the estimate of step n + 1; None at step N.
            draw: called without arguments, returns standard normal noise z; a step that adds no noise does not call it.

        Returns:
            y_{n-1}.
        """
        abar_n, abar_next = schedule.abar(n), schedule.abar(n - 1)
        if self.order == 2 and last_y_0 is not None and n > 1:
            # second order: y_0 is extrapolated, linearly in the log-SNR, to the middle of the step
            ratio = (schedule.log_snr[n - 2] - schedule.log_snr[n - 1]) / (schedule.log_snr[n - 1] - schedule.log_snr[n])
            y_0 = y_0 + float(ratio) / 2 * (y_0 - last_y_0)
        # sigma_n = eta sqrt((1 - abar_{n-1}) / (1 - abar_n) beta_n) (DDIM, equation 16)
        variance = self.eta**2 * (1 - abar_next) / (1 - abar_n) * schedule.beta(n)
        # y_{n-1} = sqrt(abar_{n-1}) y_0 + sqrt(1 - abar_{n-1} - sigma_n^2) epsilon + sigma_n z (DDIM, equation 12)
        epsilon = (y_n - math.sqrt(abar_n) * y_0) / math.sqrt(1 - abar_n) if abar_n < 1 else y_n * math.nan
        y = math.sqrt(abar_next) * y_0 + math.sqrt(max(1 - abar_next - variance, 0.0)) * epsilon
        return y + math.sqrt(variance) * draw() if variance > 0 else y

    def reverse_process(self, network, mel, schedule, y, noises, limit=1.0, callback=None):
        """Steps from y_N to y_0 in whitened waveforms, with gradients where they are enabled.

        Args:
            y: y_N, `[B, frames * hop_length]`; see `model.shallow.start`.
            noises: iterator of standard normal `[B, frames * hop_length]`, one for each step that adds noise.
            limit: see `predict_y_0`.
            network, mel, schedule, callback: as in `__call__`.

        Returns:
            y_0, `[B, frames * hop_length]`.
        """
        last_y_0 = None
        for n in range(len(schedule), 0, -1):
            if callback is not None:
                callback(n, y)
            y_0 = predict_y_0(network, y, mel, schedule, n, limit)
            y = self.step(schedule, n, y, y_0, last_y_0, lambda: next(noises))
            last_y_0 = y_0
        if callback is not None:
            callback(0, y)
        return y

    def __call__(self, network, mel, schedule, generator=None, noises=None, callback=None):
        """Generates a waveform from noise.

        Args:
            network: a `WaveGrad`, called as `network(y_n, mel, noise_level)`, with attributes `hop_length`, `prior` and `estimate`.
            mel: log-mel spectrogram, `[B, n_mels, frames]`.
            schedule: a `NoiseSchedule`.
            generator: a `torch.Generator` for the noise; None is PyTorch's own.
            noises: in place of `generator`, the noise itself: an iterable of standard normal `[B, frames * hop_length]`, y_N, then one
                for each step that adds noise.
            callback: called as `callback(n, y_n)` with each state, from noise (n = N) to the waveform (n = 0).

        Returns:
            `[B, frames * hop_length]`, within [-1, 1].
        """
        return _synthesize(self.reverse_process, network, mel, schedule, generator, noises, callback)


@torch.inference_mode()
def _synthesize(reverse_process, network, mel, schedule, generator, noises, callback):
    """Runs a reverse process in whitened waveforms, and gives waveforms to the caller and to the callback."""
    if noises is None:
        noises = standard_normal((len(mel), mel.shape[-1] * network.hop_length), generator, mel.device)
    std = network.prior(mel)
    of_waveform = callback and (lambda n, z_n: callback(n, std * z_n))
    noises = iter(noises)
    y = shallow.start(network, mel, schedule, next(noises), std)
    return std * reverse_process(network, mel, schedule, y, noises, 1 / std, of_waveform)


def _heun_process(network, mel, schedule, y, noises, limit=1.0, callback=None):
    """Heun's method on the ODE of DDIM (Karras et al., 2022, algorithm 1), second order: 2 N - 1 network calls.

    In x = y_n / sqrt(abar_n) and sigma = sqrt(1 - abar_n) / sqrt(abar_n) the ODE is dx / dsigma = (x - y_0) / sigma. The noises
    are not used. Arguments and result as in `Sampler.reverse_process`.
    """
    levels = [math.sqrt(schedule.abar(n)) for n in range(len(schedule) + 1)]
    sigmas = [math.sqrt(1 - level**2) / level for level in levels]
    for n in range(len(schedule), 1, -1):
        if callback is not None:
            callback(n, y)
        slope = (y / levels[n] - predict_y_0(network, y, mel, schedule, n, limit)) / sigmas[n]
        euler = levels[n - 1] * (y / levels[n] + (sigmas[n - 1] - sigmas[n]) * slope)
        end_slope = (euler / levels[n - 1] - predict_y_0(network, euler, mel, schedule, n - 1, limit)) / sigmas[n - 1]
        y = levels[n - 1] * (y / levels[n] + (sigmas[n - 1] - sigmas[n]) * (slope + end_slope) / 2)
    y_0 = predict_y_0(network, y, mel, schedule, 1, limit)  # the step to sigma = 0 is a step of Euler's method
    if callback is not None:
        callback(1, y)
        callback(0, y_0)
    return y_0


def heun(network, mel, schedule, generator=None, noises=None, callback=None):
    """Heun's method, see `_heun_process`; arguments and result as in `Sampler.__call__`."""
    return _synthesize(_heun_process, network, mel, schedule, generator, noises, callback)


SAMPLERS = {
    "ancestral": Sampler(1, 1.0),
    "ddim": Sampler(1, 0.0),
    "dpm-solver": Sampler(2, 0.0),
    "sde-dpm-solver": Sampler(2, 1.0),
    "heun": heun,
}
STREAMABLE = [name for name, sampler in SAMPLERS.items() if isinstance(sampler, Sampler)]
DEFAULT_SAMPLER = "sde-dpm-solver"  # for schedules that name none: docs/usage.md; the paper's is ancestral


def sampler_name(schedule, name=None):
    """The name of the sampler to use: `name`, else that of the schedule (a `NoiseSchedule` or None), else `DEFAULT_SAMPLER`."""
    return name or (schedule and schedule.sampler) or DEFAULT_SAMPLER


def find_sampler(name, streamable=False):
    """The sampler of a name in `SAMPLERS`; `ddim:0.5` and `dpm-solver:0.5` are those with that eta.

    Args:
        streamable: take `STREAMABLE` samplers only.

    Raises:
        InputError: there is no such sampler, or eta is not within 0 and 1.
    """
    base, separator, text = name.partition(":")
    names = STREAMABLE if streamable or separator else list(SAMPLERS)
    if base not in names:
        raise InputError(f"sampler '{name}' is unknown (wanted: {', '.join(names)}, or ddim:ETA)")
    if not separator:
        return SAMPLERS[base]
    if base not in ("ddim", "dpm-solver"):
        raise InputError(f"sampler '{name}': {base} takes no eta (wanted: ddim:ETA or dpm-solver:ETA)")
    try:
        eta = float(text)
    except ValueError:
        eta = -1.0
    if not 0 <= eta <= 1:
        raise InputError(f"sampler '{name}': eta is '{text}' (wanted: a number from 0 to 1)")
    return SAMPLERS[base]._replace(eta=eta)
