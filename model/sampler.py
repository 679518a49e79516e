"""The reverse process: from noise to a waveform, given a network, mels and a noise schedule.

A sampler is its step: how y_{n-1} follows from y_n and the clean waveform that the network sees in it. `STEPS` lists them, and
`SAMPLERS` what samples with them from beginning to end. The network takes any noise level, so none needs training of its own.
"""

import functools
import math

import numpy as np
import torch

from model.errors import InputError
from model.prior import standard_deviation


def gaussian_noises(shape, generator=None, device=None):
    """An endless stream of standard normal tensors, drawn on the generator's device and moved to `device`."""
    source = generator.device if generator is not None else device
    while True:
        yield torch.randn(shape, generator=generator, device=source).to(device)


def noises_of_prior(network, mel, generator=None, noises=None):
    """The noises `[B, frames * hop_length]` of a sampling, of the network's prior: drawn, or made of the standard normal ones given."""
    if noises is None:
        batch, _, frames = mel.shape
        noises = gaussian_noises((batch, frames * network.hop_length), generator, mel.device)
    std = standard_deviation(network, mel)
    return (std * noise for noise in noises)


def predict_y_0(network, y, mel, schedule, n):
    """The clean waveform that the network sees in `y` at step index `n`, kept within [-1, 1], as a waveform is."""
    noise_level = torch.full((len(y),), schedule.noise_levels[n], dtype=torch.float64, device=mel.device)
    alpha_cumprod = schedule.alphas_cumprod[n]
    predicted_noise = network(y, mel, noise_level)
    y_0 = (y - math.sqrt(1 - alpha_cumprod) * predicted_noise) / math.sqrt(alpha_cumprod)
    return y_0.clamp(-1, 1)


@np.errstate(divide="ignore", invalid="ignore")  # a beta that vanishes beside 1 gives NaN, which is noticed in the waveform
def ancestral_step(schedule, n, y, y_0, previous_y_0, draw):
    """y_{n-1} drawn from q(y_{n-1} | y_n, y_0) (Ho et al., 2020, equation 7).

    Args:
        schedule, n: the `NoiseSchedule` and the index of the step; after step 0 no noise is left.
        y: y_n, of any shape.
        y_0: the estimate of the clean waveform at this step.
        previous_y_0: that of the step before (n + 1), None at the first; for samplers of second order.
        draw: gives noise of the shape of y when it is called, of unit variance or of the prior; steps that add none do not call it.
    """
    alpha_cumprod = schedule.alphas_cumprod[n]
    previous_cumprod = schedule.alphas_cumprod[n - 1] if n > 0 else 1.0
    y_0_weight = math.sqrt(previous_cumprod) * schedule.betas[n] / (1 - alpha_cumprod)
    y_n_weight = math.sqrt(schedule.alphas[n]) * (1 - previous_cumprod) / (1 - alpha_cumprod)
    variance = (1 - previous_cumprod) / (1 - alpha_cumprod) * schedule.betas[n]
    y = y_0_weight * y_0 + y_n_weight * y
    return y + math.sqrt(variance) * draw() if n > 0 else y


def ddim_step(schedule, n, y, y_0, previous_y_0, draw, eta=0.0):
    """DDIM (Song et al., 2021, equations 12 and 16). Arguments as in `ancestral_step`.

    The noise in y_n is taken from the estimate, y_n = sqrt(a_n) y_0 + sqrt(1 - a_n) noise, so that the two always agree.

    Args:
        eta: share of the noise of ancestral sampling that is added: 0 is deterministic, 1 is ancestral sampling.
    """
    if n == 0:
        return y_0
    alpha_cumprod, previous_cumprod = schedule.alphas_cumprod[n], schedule.alphas_cumprod[n - 1]
    variance = eta**2 * (1 - previous_cumprod) / (1 - alpha_cumprod) * schedule.betas[n]
    predicted_noise = (y - math.sqrt(alpha_cumprod) * y_0) / math.sqrt(1 - alpha_cumprod)
    y = math.sqrt(previous_cumprod) * y_0 + math.sqrt(1 - previous_cumprod - variance) * predicted_noise
    return y + math.sqrt(variance) * draw() if eta else y


def dpm_solver_step(schedule, n, y, y_0, previous_y_0, draw, eta=0.0):
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2), second order. Arguments as in `ancestral_step`.

    A step of DPM-Solver++ in data prediction is a step of DDIM; the second order comes from extrapolating y_0, linear in
    half the log-SNR, to the middle of the step. The first step has nothing to extrapolate from; the last one ends at an
    infinite log-SNR and takes y_0 as it is.

    Args:
        eta: 0 solves the ODE, 1 the SDE, SDE-DPM-Solver++(2M): the noise of ancestral sampling, in second order.
    """
    if previous_y_0 is not None and n > 0:
        log_snr = schedule.log_snr[n - 1 : n + 2].tolist()
        ratio = (log_snr[0] - log_snr[1]) / (log_snr[1] - log_snr[2])  # this step to the one before
        y_0 = y_0 + ratio / 2 * (y_0 - previous_y_0)
    return ddim_step(schedule, n, y, y_0, None, draw, eta)


def reverse_process(step, network, mel, schedule, noises, callback=None):
    """From the first of the noises to a waveform, by a step of `STEPS`; gradients flow through it where they are enabled.

    Args:
        noises: an iterator of noises `[B, frames * hop_length]` of the network's prior: the start, then one per step that adds noise.
        network, mel, schedule, callback: as in `ancestral_sample`, and so is the result.
    """
    y, previous_y_0 = next(noises), None
    for n in reversed(range(len(schedule))):
        if callback is not None:
            callback(n + 1, y)
        y_0 = predict_y_0(network, y, mel, schedule, n)
        y = step(schedule, n, y, y_0, previous_y_0, lambda: next(noises))
        previous_y_0 = y_0
    if callback is not None:
        callback(0, y)
    return y


@torch.inference_mode()
def sample_with(step, network, mel, schedule, generator=None, noises=None, callback=None):
    """Samples with a step of `STEPS`; arguments and result as in `ancestral_sample`."""
    return reverse_process(step, network, mel, schedule, noises_of_prior(network, mel, generator, noises), callback)


def ancestral_sample(network, mel, schedule, generator=None, noises=None, callback=None):
    """Ancestral sampling (WaveGrad, algorithm 2): y_{n-1} is drawn from q(y_{n-1} | y_n, y_0) at the predicted y_0.

    The prediction of y_0 is kept within [-1, 1], as a waveform is; without that, this is line 4 and 5 of the algorithm.

    Args:
        network: called as `network(y_n, mel, noise_level)`, with an attribute `hop_length`.
        mel: log-mel spectrogram, `[B, n_mels, frames]`.
        schedule: a `NoiseSchedule`.
        generator: source of the noise.
        noises: the noise itself instead, an iterable of `[B, frames * hop_length]`: the start, then one per step that adds
            noise, which the last does not.
        callback: called as `callback(n, y)` with every state, from the start (n = N, pure noise) to the result (n = 0).

    Returns:
        waveform, `[B, frames * hop_length]`, within [-1, 1].
    """
    return sample_with(ancestral_step, network, mel, schedule, generator, noises, callback)


def ddim_sample(network, mel, schedule, generator=None, noises=None, callback=None, eta=0.0):
    """DDIM, see `ddim_step`; arguments and result as in `ancestral_sample`."""
    return sample_with(functools.partial(ddim_step, eta=eta), network, mel, schedule, generator, noises, callback)


def dpm_solver_sample(network, mel, schedule, generator=None, noises=None, callback=None, eta=0.0):
    """DPM-Solver++(2M), see `dpm_solver_step`; arguments and result as in `ancestral_sample`."""
    return sample_with(functools.partial(dpm_solver_step, eta=eta), network, mel, schedule, generator, noises, callback)


@torch.inference_mode()
def heun_sample(network, mel, schedule, generator=None, noises=None, callback=None):
    """Heun's method on the ODE of DDIM (Karras et al., 2022, algorithm 1), second order: 2 N - 1 network calls.

    Arguments and result as in `ancestral_sample`; only the first of the noises is used. In x = y_n / sqrt(a_n) and
    sigma = sqrt(1 - a_n) / sqrt(a_n) the ODE is dx / dsigma = (x - y_0) / sigma.
    """
    y = next(noises_of_prior(network, mel, generator, noises))
    levels = schedule.noise_levels.tolist()
    sigmas = [math.sqrt(1 - level**2) / level for level in levels]
    for n in reversed(range(1, len(schedule))):
        if callback is not None:
            callback(n + 1, y)
        slope = (y / levels[n] - predict_y_0(network, y, mel, schedule, n)) / sigmas[n]
        euler = levels[n - 1] * (y / levels[n] + (sigmas[n - 1] - sigmas[n]) * slope)
        end_slope = (euler / levels[n - 1] - predict_y_0(network, euler, mel, schedule, n - 1)) / sigmas[n - 1]
        y = levels[n - 1] * (y / levels[n] + (sigmas[n - 1] - sigmas[n]) * (slope + end_slope) / 2)
    y_0 = predict_y_0(network, y, mel, schedule, 0)  # the step to sigma = 0 is Euler's
    if callback is not None:
        callback(1, y)
        callback(0, y_0)
    return y_0


STEPS = {
    "ancestral": ancestral_step,
    "ddim": ddim_step,
    "dpm-solver": dpm_solver_step,
    "sde-dpm-solver": functools.partial(dpm_solver_step, eta=1.0),
}
DEFAULT_SAMPLER = "sde-dpm-solver"  # the best where nothing was made for another one: docs/journal/2026-11-25-benchmark.md; the paper's is ancestral
SAMPLERS = {name: functools.partial(sample_with, step) for name, step in STEPS.items()} | {"heun": heun_sample}


def sampler_of(schedule, name=None):
    """The name of the sampler that a schedule, or None, goes with: the one asked for, else the one it was made for, else the default."""
    return name or (schedule and schedule.sampler) or DEFAULT_SAMPLER


def find_step(name):
    """The step of a name in `STEPS`; `ddim:0.5` and `dpm-solver:0.5` are those with that eta.

    Raises:
        InputError: there is no such sampler, it is not made of steps, or eta is not within 0 and 1.
    """
    base, separator, text = name.partition(":")
    if base not in STEPS:
        raise InputError(f"sampler '{name}' is unknown (wanted: {', '.join(STEPS)}, or ddim:ETA)")
    if not separator:
        return STEPS[base]
    if base not in ("ddim", "dpm-solver"):
        raise InputError(f"sampler '{name}': {base} takes no eta (wanted: ddim:ETA or dpm-solver:ETA)")
    try:
        eta = float(text)
    except ValueError:
        eta = -1.0
    if not 0 <= eta <= 1:
        raise InputError(f"sampler '{name}': eta is '{text}' (wanted: a number from 0 to 1)")
    return functools.partial(STEPS[base], eta=eta)


def find_sampler(name):
    """The sampler of a name in `SAMPLERS`, or of one with eta; see `find_step`, which raises what this raises."""
    return SAMPLERS[name] if name in SAMPLERS else functools.partial(sample_with, find_step(name))
