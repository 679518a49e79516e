"""The three blocks of WaveGrad (appendix A, figures 3 to 5).

The argument `layers` is the module of their parts: `model.layers`, where a signal is `[B, C, T]`, or `model.fast_layers`, where it is
`[B, C, 1, T]`. The shapes below are those of `model.layers`.
"""

from functools import partial

import torch
from torch import nn

from model.layers import NOISE_LEVEL_SCALE, leaky_relu


class FiLM(nn.Module):
    """Feature-wise linear modulation: scale gamma and shift xi from a DBlock's output and the noise level (figure 5).

    Figure 5 has a convolution for each of the two. Here it is one, whose output has first the channels of gamma, then those of xi.
    """

    def __init__(self, in_channels, out_channels, layers, noise_level_scale=NOISE_LEVEL_SCALE):
        super().__init__()
        self.conv = layers.Conv1d(in_channels, in_channels)
        self.encoding = layers.NoiseLevelEncoding(in_channels, noise_level_scale)
        self.scale_shift = layers.Conv1d(in_channels, 2 * out_channels)

    def forward(self, x, noise_level):
        """Output of a DBlock `[B, in, T]` and noise level `[B]` -> scale and shift, `[B, out, T]` each."""
        x = leaky_relu(self.conv(x), inplace=True)
        x = x + self.encoding(noise_level).to(x.dtype)
        return self.scale_shift(x).chunk(2, dim=1)


class UBlock(nn.Module):
    """Upsamples by `factor`; the scale and shift of one FiLM modulate it three times (figure 3)."""

    def __init__(self, in_channels, out_channels, factor, dilations, layers, interpolation="linear"):
        super().__init__()
        self.residual = layers.UpsampledConv1d(in_channels, out_channels, factor, kernel_size=1, interpolation=interpolation)
        first = layers.UpsampledConv1d(in_channels, out_channels, factor, dilation=dilations[0], interpolation=interpolation)
        others = [layers.Conv1d(out_channels, out_channels, dilation=dilation) for dilation in dilations[1:]]
        self.convs = nn.ModuleList([first, *others])

    def forward(self, x, scale, shift):
        """`[B, in, T]`, scale and shift `[B, out, T * factor]` -> `[B, out, T * factor]`."""

        def modulated(u):
            # gamma * U + xi (appendix A), then the activation
            return leaky_relu(torch.addcmul(shift, scale, u), inplace=True)

        h = self.convs[0](leaky_relu(x))  # upsamples
        h = self.convs[1](modulated(h))
        h = h + self.residual(x)  # upsamples

        residual = h
        h = self.convs[2](modulated(h))
        h = self.convs[3](modulated(h))
        return h + residual


class DBlock(nn.Module):
    """Downsamples by `factor` (figure 4)."""

    def __init__(self, in_channels, out_channels, factor, dilations, layers, interpolation="linear"):
        super().__init__()
        self.downsample = partial(layers.downsample, factor=factor, mode=interpolation)
        self.residual = layers.Conv1d(in_channels, out_channels, kernel_size=1)
        channels = [in_channels] + [out_channels] * (len(dilations) - 1)
        self.convs = nn.ModuleList(layers.Conv1d(channels[i], out_channels, dilation=dilation) for i, dilation in enumerate(dilations))

    def forward(self, x):
        """`[B, in, T]` -> `[B, out, T / factor]`."""
        x = self.downsample(x)  # once for both branches: figure 4 has it after the residual's convolution of one tap, which is equal
        h = self.convs[0](leaky_relu(x))
        for conv in self.convs[1:]:
            h = conv(leaky_relu(h, inplace=True))
        return h + self.residual(x)
