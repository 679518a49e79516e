"""The parts of `model.layers` in fast forms, with the same names, weights and results. A signal is `[B, C, 1, T]`, channels last.

docs/performance.md says what makes them fast. One-dimensional convolutions run as two-dimensional ones of height 1, because oneDNN
and cuDNN are fastest with channels-last convolutions, and these exist in two dimensions only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import layers
from model.layers import initialise


class Conv1d(nn.Conv2d):
    """`layers.Conv1d`; the weight is `[out, in, 1, kernel_size]`."""

    def __init__(self, in_channels, out_channels, kernel_size=3, dilation=1):
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(in_channels, out_channels, (1, kernel_size), padding=(0, padding), dilation=(1, dilation))
        initialise(self.weight, self.bias)

    def forward(self, x):
        if torch.is_grad_enabled() and x.device.type == "cpu" and self.weight.requires_grad and not torch.is_autocast_enabled("cpu"):
            return _ConvWithMatmulWeightGradient.apply(x, self.weight, self.bias, self.padding, self.dilation)
        return super().forward(x)


class _ConvWithMatmulWeightGradient(torch.autograd.Function):
    """The same convolution, its weight gradient as one matrix product per tap.

    In float32 on CPUs without AVX-512, oneDNN's own weight gradient takes three times as long on channels-last signals.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, padding, dilation):
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(x, weight, bias, padding=padding, dilation=dilation)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, (1, 1), ctx.padding, ctx.dilation, False, (0, 0), 1, (True, False, False)
            )[0]
        length, kernel_size = x.shape[-1], weight.shape[-1]
        padding, dilation = ctx.padding[1], ctx.dilation[1]
        rows = F.pad(x[:, :, 0].transpose(1, 2), (0, 0, padding, padding))  # [B, T, C]
        grad_rows = grad[:, :, 0]  # [B, C, T]
        taps = [(grad_rows @ rows[:, k * dilation : k * dilation + length]).sum(0) for k in range(kernel_size)]
        grad_weight = torch.stack(taps, 1)[:, None].permute(0, 3, 1, 2)  # channels last, like the weight
        return grad_x, grad_weight, grad_rows.sum((0, 2)), None, None


class UpsampledConv1d(Conv1d):
    """`layers.UpsampledConv1d`: `[B, in, 1, T]` -> `[B, out, 1, T * factor]`.

    The matrix of a tap and a linear interpolation commute. So the matrices are applied before the upsampling, which takes only one
    `factor`-th of the multiply-adds. With three taps, each output is a fixed weighted sum of the three taps at three inputs
    (`tap_sums`). For a factor of two that sum takes more time than it saves, so there the convolution follows the upsampling.
    """

    def __init__(self, in_channels, out_channels, factor, kernel_size=3, dilation=1, interpolation="linear"):
        super().__init__(in_channels, out_channels, kernel_size, dilation)
        self.factor, self.interpolation = factor, interpolation
        self.has_sums = kernel_size == 3 and factor > 2 and dilation == 1 and interpolation == "linear"
        if self.has_sums:
            self.register_buffer("sums", tap_sums(factor), persistent=False)

    def forward(self, x):
        if self.kernel_size[1] == 1:
            return upsample(super().forward(x), self.factor, self.interpolation)
        if not self.has_sums or torch.compiler.is_exporting():
            return super().forward(upsample(x, self.factor, self.interpolation))
        channels = self.out_channels
        taps = self.weight[:, :, 0].permute(2, 0, 1).flatten(0, 1)  # [3 out, in]
        frames = F.linear(x[:, :, 0].transpose(1, 2), taps)  # [B, T, 3 out]
        padded = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)  # interpolation repeats the ends
        windows = padded.unfold(1, 3, 1).unflatten(2, (3, channels)).permute(0, 1, 4, 2, 3).flatten(2, 3)  # [B, T, 9, out]
        y = (self.sums @ windows).flatten(1, 2)  # [B, T * factor, out]
        y[:, 0] -= frames[:, 0, :channels]  # the convolution pads with zeros
        y[:, -1] -= frames[:, -1, -channels:]
        y += self.bias
        return y.transpose(1, 2)[:, :, None]


def tap_sums(factor: int) -> Tensor:
    """`[factor, 9]`: the weights of the three taps at the inputs before, at and after one, in each of its `factor` outputs."""
    upsampled = upsample(torch.eye(3)[:, None, None], factor)[:, 0, 0]  # [frame, 3 * factor]
    of_taps = [upsampled[:, factor + tap : 2 * factor + tap] for tap in (-1, 0, 1)]
    return torch.stack(of_taps, dim=1).flatten(0, 1).T.contiguous()


class NoiseLevelEncoding(layers.NoiseLevelEncoding):
    """`layers.NoiseLevelEncoding` in the shape of these signals."""

    def forward(self, noise_level):
        """`[B]` -> `[B, channels, 1, 1]`."""
        return super().forward(noise_level)[:, :, None]


def downsample(x: Tensor, factor: int, mode: str = "linear") -> Tensor:
    """`[B, C, 1, T]` -> `[B, C, 1, T / factor]`, by interpolation at the centre of each group of `factor` samples.

    Linear interpolation there is the middle sample of an odd group and the mean of an even group's two middle ones.
    """
    if factor == 1:
        return x
    if mode == "nearest":
        return x[..., ::factor]
    middle = x[..., factor // 2 :: factor]
    return middle if factor % 2 else (x[..., factor // 2 - 1 :: factor] + middle) * 0.5


def upsample(x: Tensor, factor: int, mode: str = "linear") -> Tensor:
    """`[B, C, 1, T]` -> `[B, C, 1, T * factor]`, by interpolation."""
    if factor == 1:
        return x
    if mode == "nearest":
        return F.interpolate(x, size=(1, x.shape[-1] * factor), mode="nearest")
    if x.device.type == "cpu":
        return F.interpolate(x, size=(1, x.shape[-1] * factor), mode="bilinear", align_corners=False)
    return _upsample_by_neighbours(x, factor)


def _upsample_by_neighbours(x, factor):
    """`upsample` of mode "linear" as weighted sums of neighbours.

    On GPUs the backward pass of `F.interpolate` adds gradients by atomic operations. These are slow in half precision, and their
    order changes from run to run. This form has none.
    """
    before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
    after = torch.cat([x[..., 1:], x[..., -1:]], dim=-1)
    # The i-th sample of x[t] lies at t + offset: between x[t - 1] and x[t] where the offset is negative, else between x[t] and x[t + 1].
    offsets = [(i + 0.5) / factor - 0.5 for i in range(factor)]
    samples = [torch.lerp(x, before if offset < 0 else after, abs(offset)) for offset in offsets]
    channels_last = [sample.permute(0, 2, 3, 1) for sample in samples]  # [B, 1, T, C]
    return torch.stack(channels_last, dim=3).flatten(2, 3).permute(0, 3, 1, 2)


def to_signal(x: Tensor) -> Tensor:
    """`[B, C, T]` -> `[B, C, 1, T]`, channels last."""
    return x[:, :, None].contiguous(memory_format=torch.channels_last)


def from_signal(x: Tensor) -> Tensor:
    """`[B, C, 1, T]` -> `[B, C, T]`."""
    return x[:, :, 0]
