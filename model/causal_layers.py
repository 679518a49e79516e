"""The parts of `model.fast_layers` without look-ahead, for streaming with a short latency; `network.causal` in the configuration.

No output sample depends on a later input sample of the same rate. So a frame of the network's prediction depends on no later frame. The
weights have the same names and shapes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model import fast_layers
from model.fast_layers import NoiseLevelEncoding, from_signal, to_signal

__all__ = ["Conv1d", "NoiseLevelEncoding", "UpsampledConv1d", "downsample", "from_signal", "to_signal", "upsample"]


class Conv1d(fast_layers.Conv1d):
    """A convolution of this sample and earlier ones: `[B, in, 1, T]` -> `[B, out, 1, T]`."""

    def __init__(self, in_channels, out_channels, kernel_size=3, dilation=1):
        super().__init__(in_channels, out_channels, kernel_size, dilation)
        self.padding, self.earlier = (0, 0), dilation * (kernel_size - 1)

    def forward(self, x):
        return nn.Conv2d.forward(self, F.pad(x, (self.earlier, 0)))


class UpsampledConv1d(Conv1d):
    """Upsampling by `factor`, then a convolution: `[B, in, 1, T]` -> `[B, out, 1, T * factor]`."""

    def __init__(self, in_channels, out_channels, factor, kernel_size=3, dilation=1, interpolation="linear"):
        super().__init__(in_channels, out_channels, kernel_size, dilation)
        self.factor, self.interpolation = factor, interpolation

    def forward(self, x):
        return super().forward(upsample(x, self.factor, self.interpolation))


def downsample(x, factor, mode="linear"):
    """`[B, C, 1, T]` -> `[B, C, 1, T / factor]`: the last sample of each group of `factor`, the first one with "nearest"."""
    return x[..., (factor - 1 if mode == "linear" else 0) :: factor]


def upsample(x, factor, mode="linear"):
    """`[B, C, 1, T]` -> `[B, C, 1, T * factor]`: from the sample before to this one, which is reached at the end of its group."""
    if factor == 1 or mode == "nearest":
        return fast_layers.upsample(x, factor, mode)
    before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
    samples = [torch.lerp(before, x, (i + 1) / factor).permute(0, 2, 3, 1) for i in range(factor)]  # [B, 1, T, C]
    return torch.stack(samples, dim=3).flatten(2, 3).permute(0, 3, 1, 2)
