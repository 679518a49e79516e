"""The three blocks of WaveGrad (section 4.1, figures 3 to 5). All signals are `[B, C, 1, T]`, channels last."""

import torch
from torch import nn

from model.layers import Conv1d, NoiseLevelEncoding, UpsampledConv1d, downsample, leaky_relu, upsample


class FiLM(nn.Module):
    """Feature-wise linear modulation: scale and shift from a noisy-waveform feature and the noise level (figure 5).

    The scale gamma and the shift xi are one convolution, its first half of channels the scale.
    """

    def __init__(self, in_channels, out_channels, noise_level_scale=5000.0):
        super().__init__()
        self.conv = Conv1d(in_channels, in_channels)
        self.encoding = NoiseLevelEncoding(in_channels, noise_level_scale)
        self.scale_shift = Conv1d(in_channels, 2 * out_channels)

    def forward(self, x, noise_level):
        """`[B, in, 1, T]`, `[B]` -> scale and shift, `[B, out, 1, T]` each."""
        x = leaky_relu(self.conv(x), inplace=True)
        x = x + self.encoding(noise_level).to(x.dtype)
        return self.scale_shift(x).chunk(2, dim=1)


class UBlock(nn.Module):
    """Upsamples by `factor`, modulated three times by one FiLM (figure 3)."""

    def __init__(self, in_channels, out_channels, factor, dilations, interpolation="linear"):
        super().__init__()
        self.factor = factor
        self.interpolation = interpolation
        self.residual = Conv1d(in_channels, out_channels, kernel_size=1)
        self.convs = nn.ModuleList([UpsampledConv1d(in_channels, out_channels, factor, dilations[0], interpolation)])
        self.convs.extend(Conv1d(out_channels, out_channels, dilation=dilation) for dilation in dilations[1:])

    def forward(self, x, scale, shift):
        """`[B, in, 1, T]`, scale and shift `[B, out, 1, T * factor]` -> `[B, out, 1, T * factor]`."""

        def modulated(x):
            # gamma * U + xi (section 4.1), and the activation that follows it
            return leaky_relu(torch.addcmul(shift, scale, x), inplace=True)

        h = self.convs[1](modulated(self.convs[0](leaky_relu(x))))
        # A 1x1 convolution and an interpolation commute: the convolution goes on the shorter side.
        h = h + upsample(self.residual(x), self.factor, self.interpolation)
        return h + self.convs[3](modulated(self.convs[2](modulated(h))))


class DBlock(nn.Module):
    """Downsamples by `factor` (figure 4)."""

    def __init__(self, in_channels, out_channels, factor, dilations, interpolation="linear"):
        super().__init__()
        self.factor = factor
        self.interpolation = interpolation
        self.residual = Conv1d(in_channels, out_channels, kernel_size=1)
        channels = [in_channels] + [out_channels] * (len(dilations) - 1)
        self.convs = nn.ModuleList(Conv1d(channels[i], out_channels, dilation=dilation) for i, dilation in enumerate(dilations))

    def forward(self, x):
        """`[B, in, 1, T]` -> `[B, out, 1, T / factor]`."""
        x = downsample(x, self.factor, self.interpolation)
        h = self.convs[0](leaky_relu(x))
        for conv in self.convs[1:]:
            h = conv(leaky_relu(h, inplace=True))
        return h + self.residual(x)
