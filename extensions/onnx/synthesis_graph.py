"""Synthesis as one module, mel and noise -> waveform, for a graph of real numbers (`extensions.onnx.export`).

It is the `model.pipeline.Pipeline`. Only the short-time spectrum is written anew, as convolutions, because ONNX has no inverse of it.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InputError
from extensions.griffin_lim.spectrum import MelSpectrum
from extensions.registry import make_pipeline


class RealSpectrum(MelSpectrum):
    """A `MelSpectrum` whose spectra are real, `[2, B, n_fft / 2 + 1, frames]`: first the real parts, then the imaginary ones."""

    def __init__(self, config, user):
        super().__init__(config, user)
        n = config.n_fft
        left = (n - config.win_length) // 2
        window = F.pad(self.window.double(), (left, n - config.win_length - left))
        phases = 2 * math.pi / n * (torch.arange(n // 2 + 1)[:, None] * torch.arange(n)[None] % n).double()
        basis = torch.stack([phases.cos(), -phases.sin()]) * window  # [2, lines, n_fft]
        twice = torch.full((n // 2 + 1, 1), 2.0).double()  # each line stands for its mirror image too, but the ends
        twice[0] = 1.0
        if n % 2 == 0:
            twice[n // 2] = 1.0
        self.register_buffer("analysis", basis.flatten(0, 1)[:, None].float(), persistent=False)
        self.register_buffer("synthesis", (basis * twice / n).flatten(0, 1)[:, None].float(), persistent=False)
        self.register_buffer("envelope", window.square()[None, None].float(), persistent=False)

    def stft(self, y):
        (batch, length), hop_length = y.shape, self.config.hop_length
        padded = F.pad(y[:, None], self.margins, mode=self.config.pad_mode)
        spectrum = torch.stack(F.conv1d(padded, self.analysis, stride=hop_length).chunk(2, dim=1))
        # Shapes that are said, here and below, stay short terms of the number of frames, however many iterations there are.
        return spectrum.reshape(2, batch, -1, length // hop_length)

    def istft(self, spectrum, y):
        hop_length, start = self.config.hop_length, self.first_centre
        waveform = F.conv_transpose1d(torch.cat([spectrum[0], spectrum[1]], dim=1), self.synthesis, stride=hop_length)
        envelope = F.conv_transpose1d(torch.ones_like(spectrum[0, :, :1]), self.envelope, stride=hop_length)
        first = self.config.n_fft // 2  # the centre of the first frame
        last = first + y.shape[-1] - start
        return torch.cat([y[..., :start], waveform[:, 0, first:last] / envelope[:, 0, first:last]], -1).reshape(y.shape)

    def magnitude(self, spectrum):
        return spectrum.square().sum(0).sqrt()


class Synthesis(nn.Module):
    """`Synthesis(network, config, schedule)(mel, noise)` is the waveform `[B, frames * hop_length]`, within [-1, 1].

    mel is `[B, n_mels, frames]`; noise is standard normal, `[B, n_noises, frames * hop_length]`: what sampling starts from, and what
    each step adds. Where there is an estimate or GLA-Grad, the waveform must be longer than half a window.

    Args:
        network: a `WaveGrad`.
        config: its `Config`.
        schedule, sampler, gla_grad: as of `extensions.registry.make_pipeline`.

    Attributes:
        n_noises: how many noises there are.
        fewest_frames: of a mel.

    Raises:
        InputError: there is no such sampler, the schedule has a look_ahead, or the mel is not for GLA-Grad or for the estimate.
    """

    def __init__(self, network, config, schedule, sampler=None, gla_grad=0):
        super().__init__()
        if schedule.look_ahead is not None:
            raise InputError(
                f"noise schedule {schedule.name}: look_ahead is {schedule.look_ahead}, and a graph has no loop over frames "
                "(expected: a schedule with griffin_lim alone, such as schedules/universal-22k-graph.json)"
            )
        self.pipeline = make_pipeline(network, config, schedule, sampler, gla_grad, RealSpectrum)
        spectra = [part.spectrum for part in (self.pipeline.start, self.pipeline.correction) if part is not None]
        self.fewest_frames = max((max(spectrum.margins) for spectrum in spectra), default=0) // config.mel.hop_length + 1
        self.n_noises = self._count_noises(config.mel)

    @torch.no_grad()
    def _count_noises(self, mel_config):
        counter = itertools.count()
        noise = torch.zeros(1, self.fewest_frames * mel_config.hop_length)
        mel = torch.zeros(1, mel_config.n_mels, self.fewest_frames)
        for _ in self.pipeline.results(mel, (noise for _ in counter)):
            pass
        return next(counter)

    def forward(self, mel, noise):
        *_, waveform = self.pipeline.results(mel, noise.unbind(1))
        return waveform
