"""A network that predicts a velocity is a predictor of noise to everything else."""

import math

import torch

from extensions import registry
from extensions.velocity import VelocityWaveGrad, loss_weight
from model.diffusion import add_noise, diffusion_loss


def with_velocity(config):
    return config.model_copy(update={"network": config.network.model_copy(update={"prediction": "velocity"})})


def test_noise_follows_from_the_velocity(tiny_config):
    """With the true velocity as output of the layers, the returned noise is the true one, at any noise level."""
    network = registry.make_network(with_velocity(tiny_config))
    assert isinstance(network, VelocityWaveGrad)
    generator = torch.Generator().manual_seed(0)
    y_0, noise = torch.randn(2, 3, 4 * network.hop_length, generator=generator)
    level = torch.tensor([0.05, 0.6, 0.999])
    velocity = level[:, None] * noise - (1 - level[:, None] ** 2).sqrt() * y_0
    layers = type(network).__mro__[1].forward
    try:
        type(network).__mro__[1].forward = lambda *_: velocity
        predicted = network(add_noise(y_0, noise, level), torch.zeros(3, tiny_config.mel.n_mels, 4), level)
    finally:
        type(network).__mro__[1].forward = layers
    torch.testing.assert_close(predicted, noise, rtol=1e-4, atol=1e-4)


def test_loss_is_that_of_the_velocity():
    """An error e of the velocity is an error l e of the noise, which the weight undoes."""
    level, error = torch.tensor([0.1, 0.9]), 0.25
    noise = torch.randn(2, 600)
    losses = diffusion_loss(lambda y_n, mel, level: noise + level[:, None] * error, torch.zeros(2, 600), None, level, noise)
    torch.testing.assert_close(losses * loss_weight(level), torch.full((2,), error))
    assert math.isclose(losses[0].item(), 0.025, rel_tol=1e-4)
