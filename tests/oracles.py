"""Networks whose answer is known."""

import torch

from extensions.streaming import FrameNoise
from model import layers
from model.network import WaveGrad

HOP_LENGTH = 5


class Oracle:
    """Returns the true noise of a given clean waveform."""

    hop_length = HOP_LENGTH

    def __init__(self, y_0):
        self.y_0 = y_0
        self.n_calls = 0

    def __call__(self, y_n, mel, noise_level):
        self.n_calls += 1
        level = noise_level[:, None]
        return ((y_n - level * self.y_0) / (1 - level**2).sqrt()).float()


class GaussianDenoiser:
    """The best network for waveforms of independent normal samples of standard deviation `scale`, in float64.

    The ODE of the reverse process then has a solution in closed form, `exact`.
    """

    hop_length = HOP_LENGTH

    def __init__(self, scale):
        self.scale = scale
        self.n_calls = 0

    def __call__(self, y_n, mel, noise_level):
        self.n_calls += 1
        level = noise_level[:, None]
        return (1 - level**2).sqrt() * y_n / (level**2 * self.scale**2 + 1 - level**2)

    def exact(self, start, noise_level):
        """Where the ODE leads `start` at `noise_level` when all noise is gone."""
        return start * self.scale / (noise_level**2 * self.scale**2 + 1 - noise_level**2) ** 0.5


def waveforms(batch=2, frames=20, seed=0):
    """Uniform `[batch, frames * HOP_LENGTH]` in [-0.9, 0.9], and an empty mel of as many frames."""
    generator = torch.Generator().manual_seed(seed)
    y_0 = torch.rand(batch, frames * HOP_LENGTH, generator=generator) * 1.8 - 0.9
    return y_0, torch.zeros(batch, 3, frames)


def whole_noises(seed, n_steps, n_frames, hop_length):
    """The noises that a stream of `n_frames` frames uses, for sampling it as a whole: yields `[1, n_frames * hop_length]`."""
    for n in range(n_steps, 0, -1):
        yield FrameNoise(seed, n, hop_length).draw(n_frames)[None]


def textbook(network, config):
    """The network of a `Config` built of `model.layers`, with the weights of `network`."""
    weights = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in network.state_dict().items()}
    weights = {name: tensor.squeeze(2) if tensor.ndim == 4 else tensor for name, tensor in weights.items()}  # [out, in, 1, taps]
    result = WaveGrad(config.network, config.mel.n_mels, layers)
    result.load_state_dict(weights, assign=True)
    return result.train(network.training)
