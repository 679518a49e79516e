"""The three blocks of WaveGrad (section 4.1, figures 3 to 5).

Each takes the `layers` to build it of: `model.layers`, where a signal is `[B, C, T]`, or `model.fast_layers`, where it is `[B, C, 1, T]`.
"""

from functools import partial

import torch
from torch import nn

from model.layers import NOISE_LEVEL_SCALE, leaky_relu


class FiLM(nn.Module):
    """Feature-wise linear modulation: scale and shift from a noisy-waveform feature and the noise level (figure 5).

    The scale gamma and the shift xi are one convolution, its first half of channels the scale.
    """

    def __init__(self, in_channels, out_channels, layers, noise_level_scale=NOISE_LEVEL_SCALE):
        super().__init__()
        self.conv = layers.Conv1d(in_channels, in_channels)
        self.encoding = layers.NoiseLevelEncoding(in_channels, noise_level_scale)
        self.scale_shift = layers.Conv1d(in_channels, 2 * out_channels)

    def forward(self, x, noise_level):
        """`[B, in, T]`, `[B]` -> scale and shift, `[B, out, T]` each."""
        x = leaky_relu(self.conv(x), inplace=True)
        x = x + self.encoding(noise_level).to(x.dtype)
        return self.scale_shift(x).chunk(2, dim=1)


class UBlock(nn.Module):
    """Upsamples by `factor`, modulated three times by one FiLM (figure 3)."""

    def __init__(self, in_channels, out_channels, factor, dilations, layers, interpolation="linear"):
        super().__init__()
        self.residual = layers.UpsampledConv1d(in_channels, out_channels, factor, kernel_size=1, interpolation=interpolation)
        first = layers.UpsampledConv1d(in_channels, out_channels, factor, dilation=dilations[0], interpolation=interpolation)
        others = [layers.Conv1d(out_channels, out_channels, dilation=dilation) for dilation in dilations[1:]]
        self.convs = nn.ModuleList([first, *others])

    def forward(self, x, scale, shift):
        """`[B, in, T]`, scale and shift `[B, out, T * factor]` -> `[B, out, T * factor]`."""

        def modulated(u):
            # gamma * U + xi (section 4.1), and the activation that follows it
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
        x = self.downsample(x)  # for both branches: it commutes with the residual's convolution of one tap
        h = self.convs[0](leaky_relu(x))
        for conv in self.convs[1:]:
            h = conv(leaky_relu(h, inplace=True))
        return h + self.residual(x)
