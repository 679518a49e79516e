"""WaveGrad's network: (noisy waveform, mel spectrogram, noise level) -> predicted noise (appendix A, figures 2 to 5).

The argument `layers` is the module of the elementary parts: `model.fast_layers`, where a signal is `[B, C, 1, T]`, or `model.layers`, the
textbook form, where it is `[B, C, T]`. The shapes below are those of `model.layers`.
"""

import contextlib
import math
from functools import partial

import torch
from torch import Tensor, nn

from model import fast_layers
from model.config import NetworkConfig
from model.layers import NOISE_LEVEL_SCALE, initialise, leaky_relu, merge_phases, split_phases


class FiLM(nn.Module):
    """Feature-wise linear modulation: scale gamma and shift xi from a DBlock's output and the noise level (figure 5).

    Figure 5 has a convolution for each of the two. Here it is one, whose output has first the channels of gamma, then those of xi.
    """

    def __init__(self, in_channels, out_channels, layers, noise_level_scale=NOISE_LEVEL_SCALE):
        super().__init__()
        self.conv = layers.Conv1d(in_channels, in_channels)
        self.encoding = layers.NoiseLevelEncoding(in_channels, noise_level_scale)
        self.scale_shift = layers.Conv1d(in_channels, 2 * out_channels)
        for half in self.scale_shift.weight.data.chunk(2):
            initialise(half)  # each as a convolution of its own: orthogonal together, they would be smaller

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


class WaveGrad(nn.Module):
    """WaveGrad's network, figure 2 of the paper.

    Args:
        config: its shape.
        n_mels: number of mel bands of the conditioning features.
        layers: the module of its elementary parts.

    Attributes:
        context_frames: number of frames on each side that a frame of the prediction depends on.
    """

    def __init__(self, config: NetworkConfig, n_mels: int, layers=fast_layers):
        super().__init__()
        self.n_mels, self.hop_length, self.n_phases = n_mels, config.hop_length, config.phases
        self.mel_mean, self.mel_std = config.mel_mean, config.mel_std
        self.context_frames = self.receptive_field(config)
        up_channels, down_channels = config.upsampling_channels, config.downsampling_channels
        interpolation, scale = config.interpolation, config.noise_level_scale

        self.to_signal, self.from_signal = layers.to_signal, layers.from_signal
        self.mel_conv = layers.Conv1d(n_mels, config.upsampling_preconv_channels)
        self.ublocks = nn.ModuleList(
            UBlock(in_channels, out_channels, factor, dilations, layers, interpolation)
            for in_channels, out_channels, factor, dilations in zip(
                [config.upsampling_preconv_channels, *up_channels],
                up_channels,
                config.factors,
                config.upsampling_dilations,
            )
        )
        self.output_conv = layers.Conv1d(up_channels[-1], config.phases)

        self.waveform_conv = layers.Conv1d(config.phases, config.downsampling_preconv_channels, kernel_size=5)
        signal_channels = [config.downsampling_preconv_channels, *down_channels]
        self.dblocks = nn.ModuleList(
            DBlock(in_channels, out_channels, factor, dilations, layers, interpolation)
            for in_channels, out_channels, factor, dilations in zip(
                signal_channels, down_channels, config.dblock_factors, config.downsampling_dilations
            )
        )

        # One FiLM for each rate, from the last DBlock at that rate. All UBlocks at one rate share its FiLM.
        self.ublock_strides, self.signal_strides = config.ublock_strides, config.dblock_strides
        signal_of = dict(zip(self.signal_strides, signal_channels))
        modulated_of = dict(zip(self.ublock_strides, up_channels))
        self.films = nn.ModuleList(FiLM(signal_of[stride], modulated_of[stride], layers, scale) for stride in sorted(modulated_of))

        if config.zero_output:
            nn.init.zeros_(self.output_conv.weight)
        self.to(memory_format=torch.channels_last)  # of the weights that have four dimensions

    @staticmethod
    def receptive_field(config: NetworkConfig) -> int:
        """Number of mel frames on each side of a frame that the prediction of this frame depends on, at most."""
        signal, stride = 2, 1  # the first convolution has five taps
        signal_reach = {stride: signal}
        for stride, dilations in zip(config.dblock_strides[1:], config.downsampling_dilations):
            signal += sum(dilations) * stride
            signal_reach[stride] = signal

        reach, upsampling_reach = 0, 1  # of the output convolution
        for factor, stride, dilations in zip(config.factors[::-1], config.ublock_strides[::-1], config.upsampling_dilations[::-1]):
            film_reach = signal_reach[stride] + 2 * stride
            reach = max(reach, film_reach + sum(dilations[1:]) * stride + upsampling_reach)
            upsampling_reach += sum(dilations) * stride + factor * stride  # interpolation looks one sample to each side
        frame_length = math.prod(config.factors)
        reach = max(reach, upsampling_reach + frame_length)
        return math.ceil(reach / frame_length)

    def forward(self, y_n: Tensor, mel: Tensor, noise_level: Tensor) -> Tensor:
        """Predicts the noise in a waveform.

        Args:
            y_n: noisy waveform, whitened, `[B, frames * hop_length]`.
            mel: log-mel spectrogram, `[B, n_mels, frames]`.
            noise_level: sqrt(alpha_bar) in (0, 1], 1 = clean, `[B]`.

        Returns:
            predicted noise, `[B, frames * hop_length]`, in the precision of y_n.

        Raises:
            ValueError: the waveform is not `hop_length` samples per mel frame long.
        """
        if y_n.shape[-1] != mel.shape[-1] * self.hop_length:
            raise ValueError(
                f"the waveform has {y_n.shape[-1]} samples, but {mel.shape[-1]} mel frames "
                f"of {self.hop_length} samples make {mel.shape[-1] * self.hop_length}"
            )
        with self._precision(1, y_n.device):
            h = self.waveform_conv(self.to_signal(split_phases(y_n, self.n_phases)))
        signals = {1: h}
        for dblock, stride in zip(self.dblocks, self.signal_strides[1:]):
            h = signals[stride] = dblock(h)
        modulations = {}
        for stride, film in zip(sorted(set(self.ublock_strides)), self.films):
            with self._precision(stride, y_n.device):
                modulations[stride] = film(signals[stride], noise_level)

        h = self.mel_conv(self.to_signal((mel - self.mel_mean) / self.mel_std))
        for ublock, stride in zip(self.ublocks, self.ublock_strides):
            with self._precision(stride, y_n.device):
                h = ublock(h.to(modulations[stride][0].dtype), *modulations[stride])
        with self._precision(1, y_n.device):
            return merge_phases(self.from_signal(self.output_conv(h))).to(y_n.dtype)

    def _precision(self, stride, device):
        """In inference under autocast, layers at the waveform's own rate (stride 1) compute in float32: fewer bits there cost quality."""
        is_cast = device.type != "meta" and torch.is_autocast_enabled(device.type)
        if stride == 1 and not self.training and is_cast:
            return torch.autocast(device.type, enabled=False)
        return contextlib.nullcontext()
