"""How the learning rate and the averaged weights move, and what is recomputed to spare memory."""

import functools
import math

import torch
from torch.utils.checkpoint import checkpoint

from training.stages import stage_at


def learning_rate(stages, n):
    """The learning rate of update `n` of a run: in each stage a linear warm-up, then cosine decay to the final learning rate.

    Args:
        stages: a list of `training.stages.Stage`.
    """
    stage = stage_at(stages, n)
    training, n = stage.config.training, n - stage.first
    first, final, warmup_steps = training.learning_rate, training.final_learning_rate, training.warmup_steps
    if n < warmup_steps:
        return first * (n + 1) / warmup_steps
    progress = (n - warmup_steps) / max(training.n_steps - warmup_steps, 1)
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def ema_update(stages):
    """Exponential moving average whose decay grows towards that of the stage, so that the first steps are soon forgotten."""

    def update(averages, currents, n_averaged):
        n = int(n_averaged)
        decay = stage_at(stages, n).config.training.ema_decay
        torch._foreach_lerp_(list(averages), list(currents), 1 - min(decay, (1 + n) / (10 + n)))

    return update


def checkpoint_activations(network):
    """Lets each block of a `WaveGrad` keep only its input for the backward pass and compute the rest again there."""
    for block in [*network.ublocks, *network.dblocks, *network.films]:
        block.forward = functools.partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            preserve_rng_state=False,  # no block draws random numbers
        )
