"""The diffusion of WaveGrad (section 2): algorithm 1 (training) and algorithm 2 (sampling), with each prediction of y_0 kept within limits.

y_0 is the clean waveform, y_N noise. abar_n is the product of the alphas up to step n; abar_0 is 1. Under a prior (`model.pipeline`) all
waveforms here are whitened.
"""

import math
from collections.abc import Callable, Iterator
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor

from common.device import finest_float
from model.noise_schedule import NoiseSchedule

Limit = Union[float, Tensor]
Step = Callable[[NoiseSchedule, int, Tensor, Tensor, Optional[Tensor], Callable[[], Tensor]], Tensor]


# Algorithm 1. A training step draws y_0, a noise level and epsilon (`training.examples`), and follows the gradient of `diffusion_loss`
# (`training.objective`, `training.trainer`).


def sample_noise_level(schedule: NoiseSchedule, batch: int, generator: Optional[torch.Generator] = None) -> Tensor:
    """Lines 3 and 4: s ~ Uniform({1, ..., S}), sqrt(alpha_bar) ~ Uniform(l_{s-1}, l_s), where l_0 = 1.

    Args:
        schedule: the noise schedule of the training, of S steps.
        batch: number of levels.
        generator: on the CPU.

    Returns:
        noise levels sqrt(alpha_bar), `[batch]`, float32, on the CPU.
    """
    levels = schedule.level_bounds
    s = torch.randint(1, len(schedule) + 1, (batch,), generator=generator)
    position = torch.rand(batch, generator=generator, dtype=torch.float64)
    return torch.lerp(levels[s - 1], levels[s], position).float()


def add_noise(y_0: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
    """y_n = sqrt(abar) y_0 + sqrt(1 - abar) epsilon (equation 8).

    Args:
        y_0: clean waveform, `[B, T]`.
        noise: epsilon, standard normal, `[B, T]`.
        noise_level: sqrt(alpha_bar), `[B]`.
    """
    noise_level = noise_level[:, None].float()
    return noise_level * y_0 + (1 - noise_level**2).sqrt() * noise


def diffusion_loss(network: Callable, y_0: Tensor, mel: Tensor, noise_level: Tensor, noise: Tensor) -> Tensor:
    """Line 6: || epsilon - epsilon_theta(sqrt(abar) y_0 + sqrt(1 - abar) epsilon, x, sqrt(abar)) ||_1.

    Args:
        network: called as `network(y_n, mel, noise_level)`, returns the predicted noise.
        y_0: clean waveform, `[B, T]`.
        mel: its log-mel spectrogram x, `[B, n_mels, frames]`.
        noise_level: from `sample_noise_level`, `[B]`.
        noise: epsilon, standard normal (line 5), `[B, T]`.

    Returns:
        the loss of each sample, `[B]`; its mean is the objective.
    """
    predicted_noise = network(add_noise(y_0, noise, noise_level), mel, noise_level)
    return (noise - predicted_noise).abs().mean(dim=-1)


# Algorithm 2.


@np.errstate(divide="ignore", invalid="ignore")  # a beta that vanishes beside 1 gives NaN, which the waveform's check finds
def ancestral(schedule: NoiseSchedule, n: int, y_n: Tensor, y_0: Tensor, last_y_0: Optional[Tensor], draw: Callable) -> Tensor:
    """The update of y_n in algorithm 2, the paper's sampler; arguments and result as of every `Step`.

    Args:
        schedule, n: the noise schedule and the step, N to 1.
        y_n: of any shape, which all tensors here have.
        y_0: the clean waveform that the network predicts in y_n, see `predict_y_0`; it stands for epsilon by equation 8.
        last_y_0: the prediction of step n + 1; None at step N.
        draw: returns standard normal noise; a step that adds no noise does not call it.

    Returns:
        y_{n-1}.
    """
    if n == 1:
        return y_0  # the update without z, as alpha_1 is abar_1
    beta_n, abar_n, abar_next = schedule.beta(n), schedule.abar(n), schedule.abar(n - 1)
    epsilon = predicted_noise(schedule, n, y_n, y_0)
    # y_{n-1} = (y_n - (1 - alpha_n) / sqrt(1 - abar_n) epsilon) / sqrt(alpha_n) + sigma_n z
    mean = (y_n - float(beta_n / np.sqrt(1 - abar_n)) * epsilon) / math.sqrt(1 - beta_n)
    return mean + math.sqrt((1 - abar_next) / (1 - abar_n) * beta_n) * draw()


def sample(
    network: Callable,
    mel: Tensor,
    schedule: NoiseSchedule,
    y: Tensor,
    noises: Iterator[Tensor],
    step: Step = ancestral,
    limit: Limit = 1.0,
    callback: Optional[Callable[[int, Tensor], object]] = None,
) -> Tensor:
    """Algorithm 2: from noise to a waveform. Gradients flow where they are enabled.

    Args:
        network: called as `network(y_n, mel, noise_level)`, returns the predicted noise.
        mel: log-mel spectrogram, `[B, n_mels, frames]`.
        schedule: the noise schedule, of N steps.
        y: y_N, `[B, frames * hop_length]`: noise, or an estimate at that noise level.
        noises: standard normal `[B, frames * hop_length]`, one for each step that adds noise.
        step: the update of y; one of `model.samplers.SAMPLERS`.
        limit: see `predict_y_0`.
        callback: called as `callback(n, y_n)` with each state, from n = N to 0.

    Returns:
        y_0, `[B, frames * hop_length]`.
    """
    callback, last_y_0 = callback or (lambda n, y: None), None
    for n in range(len(schedule), 0, -1):
        callback(n, y)
        y_0 = predict_y_0(network, y, mel, schedule, n, limit)
        y, last_y_0 = step(schedule, n, y, y_0, last_y_0, lambda: next(noises)), y_0
    callback(0, y)
    return y


def predict_y_0(network: Callable, y_n: Tensor, mel: Tensor, schedule: NoiseSchedule, n: int, limit: Limit = 1.0) -> Tensor:
    """The clean waveform that the network predicts in y_n: equation 8, solved for y_0 at the predicted epsilon.

    It is kept within [-limit, limit], which algorithm 2 does not do: an error of one step can grow in the next ones.

    Args:
        y_n, mel: `[B, frames * hop_length]` and `[B, n_mels, frames]`.
        limit: a number or `[B, frames * hop_length]`; infinity is no limit.
    """
    abar_n = schedule.abar(n)
    noise_level = torch.full((y_n.shape[0],), math.sqrt(abar_n), dtype=finest_float(y_n.device), device=y_n.device)
    epsilon = network(y_n, mel, noise_level)
    y_0 = (y_n - math.sqrt(1 - abar_n) * epsilon) / math.sqrt(abar_n)
    return y_0.clamp(-limit, limit)


def predicted_noise(schedule: NoiseSchedule, n: int, y_n: Tensor, y_0: Tensor) -> Tensor:
    """Equation 8, solved for epsilon; NaN where beta vanishes beside 1, so that abar_n is 1."""
    abar_n = schedule.abar(n)
    return (y_n - math.sqrt(abar_n) * y_0) / math.sqrt(1 - abar_n) if abar_n < 1 else y_n * math.nan
