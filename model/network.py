"""WaveGrad's network: (noisy waveform, mel spectrogram, noise level) -> predicted noise (appendix A, figure 2)."""

import contextlib
import math

import torch
from torch import nn

from model import causal_layers, fast_layers, polyphase
from model.blocks import DBlock, FiLM, UBlock
from model.prior import StandardNormalPrior, make_prior
from model.shallow import GriffinLimEstimate


class WaveGrad(nn.Module):
    """WaveGrad's network, figure 2 of the paper.

    Args:
        config: a `model.config.NetworkConfig`.
        n_mels: number of mel bands of the conditioning features.
        prior: the prior of `model.prior` that its waveforms are whitened by; None is the standard normal one. The network does not use it.
        layers: the module of its parts: `model.fast_layers`, or `model.layers`, the textbook form; `model.causal_layers` if
            `config.causal`, whatever it is.
        estimate: what shallow diffusion starts from, a `model.shallow.GriffinLimEstimate`; the network does not use it either.
    """

    def __init__(self, config, n_mels, prior=None, layers=fast_layers, estimate=None):
        super().__init__()
        self.prior, self.estimate = prior or StandardNormalPrior(), estimate
        self.n_mels, self.hop_length, self.n_phases = n_mels, config.hop_length, config.phases
        self.mel_mean, self.mel_std = config.mel_mean, config.mel_std
        reach = self.receptive_field(config)
        # A frame of the prediction depends on so many frames before it, and after it.
        self.context_frames, self.look_ahead_frames = (2 * reach + 1, 0) if config.causal else (reach, reach)
        layers = causal_layers if config.causal else layers
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
    def receptive_field(config):
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

    def forward(self, y_n, mel, noise_level):
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
            h = self.waveform_conv(self.to_signal(polyphase.split(y_n, self.n_phases)))
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
            return polyphase.merge(self.from_signal(self.output_conv(h))).to(y_n.dtype)

    def _precision(self, stride, device):
        """In inference under autocast, layers at the waveform's own rate (stride 1) compute in float32: fewer bits there cost quality."""
        is_cast = device.type != "meta" and torch.is_autocast_enabled(device.type)
        if stride == 1 and not self.training and is_cast:
            return torch.autocast(device.type, enabled=False)
        return contextlib.nullcontext()


def new_network(config):
    """The untrained network of a `model.config.Config`, with its prior if it has one."""
    return WaveGrad(config.network, config.mel.n_mels, make_prior(config), estimate=GriffinLimEstimate(config.mel))
