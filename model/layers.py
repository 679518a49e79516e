"""The network's elementary parts as the paper has them. A signal is `[B, C, T]`.

The network runs on `model.fast_layers`, which has the same parts under the same names; tests show that both compute the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_RELU_SLOPE = 0.2  # WaveGrad, figures 3 and 4
NOISE_LEVEL_SCALE = 5000.0  # WaveGrad, appendix A


def initialise(weight, bias=None):
    """Orthogonal initialisation of a convolution's weight (WaveGrad, appendix A); its bias is zero."""
    nn.init.orthogonal_(weight)
    if bias is not None:
        nn.init.zeros_(bias)


class Conv1d(nn.Conv1d):
    """A convolution that keeps the length: `[B, in, T]` -> `[B, out, T]`; kernel_size is odd."""

    def __init__(self, in_channels, out_channels, kernel_size=3, dilation=1):
        super().__init__(in_channels, out_channels, kernel_size, padding=dilation * (kernel_size - 1) // 2, dilation=dilation)
        initialise(self.weight, self.bias)


class UpsampledConv1d(Conv1d):
    """Upsampling by `factor`, then a convolution: `[B, in, T]` -> `[B, out, T * factor]`."""

    def __init__(self, in_channels, out_channels, factor, kernel_size=3, dilation=1, interpolation="linear"):
        super().__init__(in_channels, out_channels, kernel_size, dilation)
        self.factor, self.interpolation = factor, interpolation

    def forward(self, x):
        return super().forward(upsample(x, self.factor, self.interpolation))


class NoiseLevelEncoding(nn.Module):
    """Sinusoids of the noise level: the transformer's position encoding, with `scale` times the noise level as the position (figure 5).

    Args:
        channels: number of sinusoids, even; the first half are sines, the second half cosines.
        scale: factor on the noise level before the sinusoids.
    """

    def __init__(self, channels, scale=NOISE_LEVEL_SCALE):
        super().__init__()
        self.channels, self.scale = channels, scale

    def forward(self, noise_level):
        """`[B]` noise levels in (0, 1] -> `[B, channels, 1]`, in the precision of the noise levels."""
        half = self.channels // 2
        exponents = torch.arange(half, dtype=noise_level.dtype, device=noise_level.device) / half
        # sin and cos of scale * noise_level * 10^(-4 i / half)
        angles = self.scale * noise_level[:, None] * 1e-4**exponents
        return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :, None]


def upsample(x: Tensor, factor: int, mode: str = "linear") -> Tensor:
    """`[B, C, T]` -> `[B, C, T * factor]`, by interpolation."""
    return F.interpolate(x, size=x.shape[-1] * factor, mode=mode)


def downsample(x: Tensor, factor: int, mode: str = "linear") -> Tensor:
    """`[B, C, T]` -> `[B, C, T / factor]`, by interpolation."""
    return F.interpolate(x, size=x.shape[-1] // factor, mode=mode)


def leaky_relu(x: Tensor, inplace: bool = False) -> Tensor:
    """Leaky ReLU of any shape. `inplace` saves memory where nothing else needs `x`, autograd included."""
    return F.leaky_relu(x, LEAKY_RELU_SLOPE, inplace)


def to_signal(x: Tensor) -> Tensor:
    """`[B, C, T]` -> a signal of these layers, which is the same."""
    return x


def from_signal(x: Tensor) -> Tensor:
    """A signal of these layers -> `[B, C, T]`, which is the same."""
    return x


# Not in the paper, off by default (`network.phases` in the configuration): the waveform as several signals of a lower rate, for a network
# that works at that rate. The rearrangement is orthonormal: white noise stays white, so the diffusion is the same with and without it.


def split_phases(y: Tensor, n_phases: int) -> Tensor:
    """`[B, T]` -> `[B, n_phases, T / n_phases]`: the k-th signal holds the samples k, k + n_phases, k + 2 n_phases, ..."""
    return y.unflatten(-1, (-1, n_phases)).transpose(1, 2)


def merge_phases(signals: Tensor) -> Tensor:
    """The inverse of `split_phases`: `[B, n_phases, T / n_phases]` -> `[B, T]`."""
    return signals.transpose(1, 2).flatten(1)
