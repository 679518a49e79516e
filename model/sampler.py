"""The reverse process: from noise to a waveform, given a network, mels and a noise schedule.

Every sampler has the signature of `ancestral_sample`; `SAMPLERS` lists them. The network takes any noise level, so none of
them needs training of its own.
"""

import functools
import math

import torch

from model.errors import InputError


def gaussian_noises(shape, generator=None, device=None):
    """An endless stream of standard normal tensors, drawn on the generator's device and moved to `device`."""
    source = generator.device if generator is not None else device
    while True:
        yield torch.randn(shape, generator=generator, device=source).to(device)


def _noises(network, mel, generator, noises):
    batch, _, frames = mel.shape
    if noises is None:
        noises = gaussian_noises((batch, frames * network.hop_length), generator, mel.device)
    return iter(noises)


def _predict_y_0(network, y, mel, schedule, n):
    """The clean waveform that the network sees in `y` at step index `n`, kept within [-1, 1], as a waveform is."""
    noise_level = torch.full((len(y),), schedule.noise_levels[n], dtype=torch.float64, device=mel.device)
    alpha_cumprod = schedule.alphas_cumprod[n]
    predicted_noise = network(y, mel, noise_level)
    y_0 = (y - math.sqrt(1 - alpha_cumprod) * predicted_noise) / math.sqrt(alpha_cumprod)
    return y_0.clamp(-1, 1)


@torch.inference_mode()
def ancestral_sample(network, mel, schedule, generator=None, noises=None, callback=None):
    """Ancestral sampling (WaveGrad, algorithm 2): y_{n-1} is drawn from q(y_{n-1} | y_n, y_0) at the predicted y_0.

    The prediction of y_0 is kept within [-1, 1], as a waveform is; without that, this is line 4 and 5 of the algorithm.

    Args:
        network: called as `network(y_n, mel, noise_level)`, with an attribute `hop_length`.
        mel: log-mel spectrogram, `[B, n_mels, frames]`.
        schedule: a `NoiseSchedule`.
        generator: source of the noise.
        noises: the noise itself instead, an iterable of `[B, frames * hop_length]`: the start, then one per step but the
            last.
        callback: called as `callback(n, y)` with every state, from the start (n = N, pure noise) to the result (n = 0).

    Returns:
        waveform, `[B, frames * hop_length]`, within [-1, 1].
    """
    noises = _noises(network, mel, generator, noises)
    callback = callback or _no_callback
    y = next(noises)
    for n in reversed(range(len(schedule))):
        callback(n + 1, y)
        alpha_cumprod = schedule.alphas_cumprod[n]
        previous_cumprod = schedule.alphas_cumprod[n - 1] if n > 0 else 1.0
        y_0 = _predict_y_0(network, y, mel, schedule, n)
        # Mean and variance of q(y_{n-1} | y_n, y_0) (Ho et al., 2020, equation 7).
        y_0_weight = math.sqrt(previous_cumprod) * schedule.betas[n] / (1 - alpha_cumprod)
        y_n_weight = math.sqrt(schedule.alphas[n]) * (1 - previous_cumprod) / (1 - alpha_cumprod)
        variance = (1 - previous_cumprod) / (1 - alpha_cumprod) * schedule.betas[n]
        y = y_0_weight * y_0 + y_n_weight * y
        if n > 0:
            y = y + math.sqrt(variance) * next(noises)
    callback(0, y)
    return y


def _no_callback(n, y):
    pass


def _ddim_step(y, y_0, schedule, n, eta, noises):
    """y_{n-1} from y_n and an estimate of y_0 (Song et al., 2021, equations 12 and 16).

    The noise is taken from the estimate, y_n = sqrt(a_n) y_0 + sqrt(1 - a_n) noise, so that the two always agree.
    """
    if n == 0:
        return y_0
    alpha_cumprod, previous_cumprod = schedule.alphas_cumprod[n], schedule.alphas_cumprod[n - 1]
    variance = eta**2 * (1 - previous_cumprod) / (1 - alpha_cumprod) * schedule.betas[n]
    noise = (y - math.sqrt(alpha_cumprod) * y_0) / math.sqrt(1 - alpha_cumprod)
    y = math.sqrt(previous_cumprod) * y_0 + math.sqrt(1 - previous_cumprod - variance) * noise
    return y + math.sqrt(variance) * next(noises) if eta else y


@torch.inference_mode()
def ddim_sample(network, mel, schedule, generator=None, noises=None, callback=None, eta=0.0):
    """DDIM (Song et al., 2021). Arguments and result as in `ancestral_sample`.

    Args:
        eta: share of the noise of ancestral sampling that is added after each step: 0 is deterministic, 1 is ancestral
            sampling.
    """
    noises = _noises(network, mel, generator, noises)
    callback = callback or _no_callback
    y = next(noises)
    for n in reversed(range(len(schedule))):
        callback(n + 1, y)
        y = _ddim_step(y, _predict_y_0(network, y, mel, schedule, n), schedule, n, eta, noises)
    callback(0, y)
    return y


@torch.inference_mode()
def dpm_solver_sample(network, mel, schedule, generator=None, noises=None, callback=None, eta=0.0):
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2), second order. Arguments and result as in `ancestral_sample`.

    A step of DPM-Solver++ in data prediction is a step of DDIM; the second order comes from extrapolating y_0, linear in
    lambda = ln(sqrt(a_n) / sqrt(1 - a_n)), to the middle of the step. The first step has nothing to extrapolate from; the
    last one ends at lambda = infinity and takes y_0 as it is.

    Args:
        eta: 0 solves the ODE, 1 the SDE (SDE-DPM-Solver++(2M), appendix E): ancestral sampling's noise, second order.
    """
    noises = _noises(network, mel, generator, noises)
    callback = callback or _no_callback
    y = next(noises)
    half_log_snr = (schedule.log_snr / 2).tolist()
    previous = None
    for n in reversed(range(len(schedule))):
        callback(n + 1, y)
        y_0 = _predict_y_0(network, y, mel, schedule, n)
        estimate = y_0
        if previous is not None and n > 0:
            step, previous_step = half_log_snr[n - 1] - half_log_snr[n], half_log_snr[n] - half_log_snr[n + 1]
            estimate = y_0 + step / (2 * previous_step) * (y_0 - previous)
        y = _ddim_step(y, estimate, schedule, n, eta, noises)
        previous = y_0
    callback(0, y)
    return y


@torch.inference_mode()
def heun_sample(network, mel, schedule, generator=None, noises=None, callback=None):
    """Heun's method on the ODE of DDIM (Karras et al., 2022, algorithm 1), second order: 2 N - 1 network calls.

    Arguments and result as in `ancestral_sample`; only the first of the noises is used. In x = y_n / sqrt(a_n) and
    sigma = sqrt(1 - a_n) / sqrt(a_n) the ODE is dx / dsigma = (x - y_0) / sigma.
    """
    noises = _noises(network, mel, generator, noises)
    callback = callback or _no_callback
    y = next(noises)
    levels = schedule.noise_levels.tolist()
    sigmas = [math.sqrt(1 - level**2) / level for level in levels]
    for n in reversed(range(len(schedule))):
        callback(n + 1, y)
        y_0 = _predict_y_0(network, y, mel, schedule, n)
        if n == 0:
            y = y_0
            break
        slope = (y / levels[n] - y_0) / sigmas[n]
        euler = levels[n - 1] * (y / levels[n] + (sigmas[n - 1] - sigmas[n]) * slope)
        end_slope = (euler / levels[n - 1] - _predict_y_0(network, euler, mel, schedule, n - 1)) / sigmas[n - 1]
        y = levels[n - 1] * (y / levels[n] + (sigmas[n - 1] - sigmas[n]) * (slope + end_slope) / 2)
    callback(0, y)
    return y


SAMPLERS = {
    "ancestral": ancestral_sample,
    "ddim": ddim_sample,
    "dpm-solver": dpm_solver_sample,
    "sde-dpm-solver": functools.partial(dpm_solver_sample, eta=1.0),
    "heun": heun_sample,
}


def find_sampler(name):
    """The sampler of a name in `SAMPLERS`; `ddim:0.5` and `dpm-solver:0.5` are those with that eta.

    Raises:
        InputError: there is no such sampler, or eta is not within 0 and 1.
    """
    base, separator, text = name.partition(":")
    if base not in SAMPLERS:
        raise InputError(f"sampler '{name}' is unknown (wanted: {', '.join(SAMPLERS)}, or ddim:ETA)")
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
    return functools.partial(SAMPLERS[base], eta=eta)
