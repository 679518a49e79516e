"""Discriminators of waveforms for `training.infer_grad.adversarial`: small ones, which a CPU can bear.

- Multi-scale complex STFT (EnCodec, Défossez et al., 2022, section 3.4): two-dimensional convolutions over a spectrum's real and
  imaginary parts; the first convolution has a stride too, which saves two fifths of their time.
- Multi-period (HiFi-GAN, Kong et al., 2020, section 2.3): two-dimensional convolutions over a waveform folded at a period.

Each gives scores that are to be 1 for recordings and 0 for generated waveforms, and its features.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1  # of the leaky rectifiers in HiFi-GAN


def _conv(in_channels, out_channels, kernel, stride=(1, 1), dilation=(1, 1)):
    padding = tuple((k - 1) // 2 * d for k, d in zip(kernel, dilation))
    return weight_norm(nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation))


class _Discriminator(nn.Module):
    """A stack of convolutions over a picture of the waveform.

    Args:
        convs: the convolutions; the last one gives the scores.
    """

    def __init__(self, convs):
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.to(memory_format=torch.channels_last)

    def forward(self, waveform):
        """`[B, T]` -> scores `[B, ...]` and a list of features, the output of each convolution but the last."""
        x, features = self.picture(waveform), []
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return self.convs[-1](x).flatten(1), features


class StftDiscriminator(_Discriminator):
    """Judges the complex spectrum of windows of one length.

    Args:
        window: in samples; the hop is a quarter.
        channels: of each convolution.
    """

    def __init__(self, window, channels):
        dilated = [_conv(channels, channels, (9, 3), (2, 1), (1, dilation)) for dilation in (1, 2, 4)]
        super().__init__([_conv(2, channels, (9, 3), (2, 1)), *dilated, _conv(channels, channels, (3, 3)), _conv(channels, 1, (3, 3))])
        self.window = window
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def picture(self, waveform):
        """`[B, T]` -> `[B, 2, frequencies, frames]`."""
        spectrum = torch.stft(waveform, self.window, self.window // 4, window=self.hann, normalized=True, return_complex=True)
        return torch.stack([spectrum.real, spectrum.imag], dim=1).contiguous(memory_format=torch.channels_last)


class PeriodDiscriminator(_Discriminator):
    """Judges every `period`th sample beside the others.

    Args:
        period: in samples.
        channels: of the first convolution; each one has twice as many as the one before, up to eight times as many.
    """

    def __init__(self, period, channels):
        widths = [1, channels, 2 * channels, 4 * channels, 8 * channels]
        strided = [_conv(a, b, (5, 1), (3, 1)) for a, b in zip(widths, widths[1:])]
        super().__init__([*strided, _conv(widths[-1], widths[-1], (5, 1)), _conv(widths[-1], 1, (3, 1))])
        self.period = period

    def picture(self, waveform):
        """`[B, T]` -> `[B, 1, T / period, period]`; what remains at the end is left out."""
        length = waveform.shape[1] // self.period * self.period
        return waveform[:, :length].unflatten(1, (-1, self.period))[:, None]


class Discriminators(nn.Module):
    """All of them.

    Args:
        windows: of the STFT discriminators, in samples.
        periods: of the period discriminators, in samples.
        channels: see above.
    """

    def __init__(self, windows=(1024, 512, 256), periods=(2, 3, 5, 7), channels=16):
        super().__init__()
        self.parts = nn.ModuleList([*(StftDiscriminator(window, channels) for window in windows)])
        self.parts.extend(PeriodDiscriminator(period, channels) for period in periods)

    def forward(self, waveform):
        """`[B, T]` -> list of (scores, features), one for each discriminator."""
        return [part(waveform) for part in self.parts]


def discriminator_loss(of_recording, of_generated):
    """Least squares (Mao et al., 2017): (D(y) - 1)^2 + D(y_hat)^2, the mean over discriminators, `[B]`."""
    losses = [(real - 1).square().mean(1) + fake.square().mean(1) for (real, _), (fake, _) in zip(of_recording, of_generated)]
    return torch.stack(losses).mean(0)


def adversarial_loss(of_generated):
    """(D(y_hat) - 1)^2, the mean over discriminators, `[B]`."""
    return torch.stack([(fake - 1).square().mean(1) for fake, _ in of_generated]).mean(0)


def feature_matching_loss(of_recording, of_generated):
    """L1 distance of the features (Kumar et al., 2019), relative to the size of the recording's as in EnCodec, `[B]`."""
    distances = []
    for (_, real), (_, fake) in zip(of_recording, of_generated):
        for a, b in zip(real, fake):
            distances.append((a.detach() - b).abs().mean((1, 2, 3)) / a.detach().abs().mean((1, 2, 3)))
    return torch.stack(distances).mean(0)
