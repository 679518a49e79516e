"""How the learning rate and the averaged weights move, and what is recomputed to spare memory."""

import functools
import math

import torch
from torch.utils.checkpoint import checkpoint


def learning_rate_factor(training):
    """Step -> share of the learning rate: linear warm-up, then cosine decay to the final learning rate.

    Args:
        training: a `model.config.TrainingConfig`.
    """
    floor = training.final_learning_rate / training.learning_rate

    def factor(step):
        if step < training.warmup_steps:
            return (step + 1) / training.warmup_steps
        progress = (step - training.warmup_steps) / max(training.n_steps - training.warmup_steps, 1)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

    return factor


def ema_update(decay):
    """Exponential moving average whose decay grows towards `decay`, so that the first steps are soon forgotten."""

    def update(averages, currents, n_averaged):
        n = int(n_averaged)
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
