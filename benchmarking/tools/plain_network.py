"""The textbook form of the network: what the speed of ours is measured against, with the same weights and the same output.

Convolutions are `nn.Conv1d` on contiguous `[B, C, T]`, a DBlock's residual is downsampled after its convolution, scale and
shift are two convolutions: what the paper's figures show, and what the implementations of 2020 do.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.blocks import DBlock, FiLM, UBlock
from model.layers import Conv1d, leaky_relu, upsample


class PlainConv1d(nn.Conv1d):
    """PyTorch's own convolution of contiguous `[B, C, T]`, in the place of a `model.layers.Conv1d`: with its weights, where they are."""

    def __init__(self, conv):
        shape = conv.in_channels, conv.out_channels, conv.kernel_size[1]
        options = {"padding": conv.padding[1], "dilation": conv.dilation[1]}
        super().__init__(*shape, **options, device=conv.weight.device, dtype=conv.weight.dtype)
        with torch.no_grad():
            self.weight.copy_(conv.weight[:, :, 0])
            self.bias.copy_(conv.bias)

    def forward(self, x):
        return super().forward(x[:, :, 0].contiguous())[:, :, None]


class PlainFiLM(FiLM):
    def forward(self, x, noise_level):
        x = leaky_relu(self.conv(x))
        x = x + self.encoding(noise_level).to(x.dtype)
        weights, biases = self.scale_shift.weight.chunk(2), self.scale_shift.bias.chunk(2)
        return tuple(F.conv1d(x[:, :, 0], weight, bias, padding=1)[:, :, None] for weight, bias in zip(weights, biases))


class PlainUBlock(UBlock):
    def forward(self, x, scale, shift):
        h = self.convs[0](upsample(leaky_relu(x), self.factor, self.interpolation))
        h = self.convs[1](leaky_relu(shift + scale * h))
        h = h + upsample(self.residual(x), self.factor, self.interpolation)
        residual = h
        for conv in self.convs[2:]:
            h = conv(leaky_relu(shift + scale * h))
        return h + residual


class PlainDBlock(DBlock):
    def _downsample(self, x):
        if self.factor == 1:
            return x
        mode = "nearest" if self.interpolation == "nearest" else "bilinear"
        return F.interpolate(x, size=(1, x.shape[-1] // self.factor), mode=mode)

    def forward(self, x):
        h = self._downsample(x)
        for conv in self.convs:
            h = conv(leaky_relu(h))
        return h + self._downsample(self.residual(x))


PLAIN_BLOCKS = {FiLM: PlainFiLM, UBlock: PlainUBlock, DBlock: PlainDBlock}


def with_convolutions(module, convolution):
    """Puts `convolution(conv)` in the place of every `Conv1d` inside a module; returns the module."""
    for name, child in list(module.named_children()):
        setattr(module, name, convolution(child) if isinstance(child, Conv1d) else with_convolutions(child, convolution))
    return module


def plain(network):
    """Turns a `WaveGrad` into its textbook form, in place; returns it."""
    for module in network.modules():
        module.__class__ = PLAIN_BLOCKS.get(type(module), type(module))
    return with_convolutions(network, PlainConv1d)
