"""The order of a synthesis, the only place that has it: start, reverse process, unwhitening, correction.

Whole waveforms, streams, the ONNX graph, InferGrad, previews and benchmarks all run this list. Start, prior and correction are handed in;
without them the synthesis is WaveGrad's: algorithm 2 from noise to the waveform.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from model.diffusion import Limit, sample
from model.noise_schedule import NoiseSchedule
from model.samplers import find_sampler, sampler_name


class StandardNormalPrior:
    """WaveGrad's own prior, and the interface of every prior.

    Attributes:
        context_frames: number of frames on each side that a frame of `whiten`, `unwhiten` and `limit` depends on.
        margin_frames: frames of signal on each side that a training segment needs before it is whitened.
    """

    context_frames = margin_frames = 0

    def whiten(self, y: Tensor, mel: Tensor) -> Tensor:
        """Waveform `[B, T]` and its mel `[B, n_mels, frames]` -> what the diffusion works on, `[B, T]`."""
        return y

    def unwhiten(self, z: Tensor, mel: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return z

    def limit(self, mel: Tensor) -> Limit:
        """The largest whitened sample of a waveform within [-1, 1]: a number or `[B, T]`; `math.inf` where there is none."""
        return 1.0


class Part(NamedTuple):
    """A part of a synthesis, called as `part(y, mel)` with `[B, T]` and `[B, n_mels, frames]`; returns `[B, T]`.

    `context_frames` is the number of frames on each side that a frame of the result depends on. Starts and corrections are such parts too.
    """

    function: Callable
    context_frames: int

    def __call__(self, y, mel):
        return self.function(y, mel)


def standard_normal(shape, generator=None, device=None) -> Iterator[Tensor]:
    """Endless standard normal tensors, drawn on the generator's device and moved to `device`."""
    source = generator.device if generator is not None else device
    while True:
        yield torch.randn(shape, generator=generator, device=source).to(device)


class Pipeline(nn.Module):
    """`Pipeline(network, schedule)(mel, generator)` is the waveform of a mel.

    Args:
        network: a `WaveGrad`, or another function `network(y_n, mel, noise_level)` -> predicted noise.
        schedule: a `NoiseSchedule`.
        sampler: a name for `model.samplers.find_sampler`; None is the one that the schedule was made for.
        prior: an object with the interface of `StandardNormalPrior`; None is this one.
        start: the part that makes an estimate of the waveform from noise; None starts at noise.
        correction: the part that corrects the waveform; None leaves it as it is.

    Raises:
        InputError: there is no such sampler.
    """

    def __init__(self, network, schedule: NoiseSchedule, sampler: Optional[str] = None, prior=None, start=None, correction=None):
        super().__init__()
        self.network, self.schedule = network, schedule
        self.step = find_sampler(sampler_name(schedule, sampler))
        self.prior, self.start, self.correction = prior or StandardNormalPrior(), start, correction

    @property
    def before(self) -> list:
        """The parts from noise to y_N, whitened: none, or the estimate and equation 8 without its noise, at step N."""
        if self.start is None:
            return []
        level = math.sqrt(self.schedule.abar(len(self.schedule)))
        return [self.start, Part(lambda y, mel: level * self.prior.whiten(y, mel), self.prior.context_frames)]

    @property
    def after(self) -> list:
        """The parts from y_0, whitened, to the waveform."""
        unwhiten = Part(self.prior.unwhiten, self.prior.context_frames)
        return [unwhiten] if self.correction is None else [unwhiten, self.correction]

    def results(self, mel: Tensor, noises: Iterable[Tensor], callback: Optional[Callable] = None) -> Iterator[Tensor]:
        """Yields the waveform `[B, T]` after each of `after`: the generated one, and the corrected one. Gradients flow where enabled."""
        noises = iter(noises)
        y = next(noises)
        for part in self.before:
            y = part(y, mel)
        of_waveform = callback and (lambda n, z_n: callback(n, self.prior.unwhiten(z_n, mel)))
        y = sample(self.network, mel, self.schedule, y, noises, self.step, self.prior.limit(mel), of_waveform)
        for part in self.after:
            yield (y := part(y, mel))

    @torch.inference_mode()
    def forward(
        self, mel: Tensor, generator=None, noises: Optional[Iterable[Tensor]] = None, callback: Optional[Callable] = None
    ) -> Tensor:
        """Generates a waveform.

        Args:
            mel: log-mel spectrogram, `[B, n_mels, frames]`.
            generator: a `torch.Generator` for the noise; None is PyTorch's own.
            noises: in place of `generator`, standard normal `[B, frames * hop_length]`: the first, then one for each noisy step.
            callback: called as `callback(n, y_n)` with each state of the reverse process, unwhitened, from n = N to 0.

        Returns:
            `[B, frames * hop_length]`.
        """
        if noises is None:
            noises = standard_normal((len(mel), mel.shape[-1] * self.network.hop_length), generator, mel.device)
        *_, waveform = self.results(mel, noises, callback)
        return waveform
