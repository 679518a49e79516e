"""What `benchmark.py quality` and `search` compare, and how one recording is measured."""

import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import soundfile
import torch

from benchmarking.excerpts import excerpt_noises, file_digest, fingerprint, load_excerpts
from benchmarking.metrics import METRICS
from benchmarking.workers import device_of_worker
from common.audio import Conversions
from common.device import DTYPES, autocast, synchronized_time
from common.errors import InputError
from common.files import save_atomically
from extensions.griffin_lim.baseline import griffin_lim
from extensions.griffin_lim.spectrum import MelSpectrum
from extensions.registry import load_network, make_pipeline
from model.mel import LogMelSpectrogram
from model.noise_schedule import SUFFIXES, NoiseSchedule, find_schedule
from model.samplers import find_sampler, sampler_name

RECORDING = "recording"


@dataclass(frozen=True)
class System:
    """Something that makes waveforms: a network with a schedule and a sampler, or a reference without a network.

    Args:
        name: what tables call it.
        title: what a page for listeners calls it.
        schedule: of the network, or whose start alone it is; None without either.
        sampler: of the network; None without it.
        gla_grad: iterations of GLA-Grad after the network.
        griffin_lim: iterations of Griffin-Lim; 0 for any other system.
    """

    name: str
    title: str
    schedule: Optional[NoiseSchedule] = None
    sampler: Optional[str] = None
    gla_grad: int = 0
    griffin_lim: int = 0

    @property
    def source(self):
        """What its results follow from, as JSON values: the betas themselves, not their name."""
        schedule = self.schedule and [self.schedule.betas.tolist(), self.schedule.griffin_lim, self.schedule.look_ahead]
        return [schedule, self.sampler, self.gla_grad, self.griffin_lim]

    @property
    def file_stem(self):
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)


def split_sampler(text):
    """`SCHEDULE@SAMPLER` as schedule and sampler; the sampler is None where the only @ is in a path."""
    schedule, separator, sampler = text.rpartition("@")
    if not separator or any(part in sampler.lower() for part in ("/", *SUFFIXES)):
        return text, None
    return schedule, sampler


def make_systems(schedules, samplers, gla_grads=(0,), griffin_lim=32):
    """The systems of a command line: the recording, Griffin-Lim, the starts of schedules without the network, and the networks.

    Args:
        schedules: texts of `find_schedule`; `SCHEDULE@SAMPLER` goes with that sampler alone, any other with each of `samplers`,
            where None is the one that the schedule was made for.
        gla_grads: iterations of GLA-Grad's correction; each schedule and sampler goes with each.
        griffin_lim: iterations of Griffin-Lim; 0 leaves it out.

    Raises:
        OSError, InputError: a schedule cannot be read, a sampler is unknown, or two systems have the same name.
    """
    systems = [System(RECORDING, RECORDING)]
    if griffin_lim:
        systems.append(System(f"griffin-lim-{griffin_lim}", f"Griffin-Lim, {griffin_lim} iterations", griffin_lim=griffin_lim))
    found = {text: find_schedule(split_sampler(text)[0]) for text in schedules}
    starts = {(schedule.griffin_lim, schedule.look_ahead): schedule for schedule in found.values() if schedule.griffin_lim is not None}
    for numbers, schedule in starts.items():
        name = "-".join(str(part) for part in ("estimate", *numbers) if part is not None)
        systems.append(System(name, "Griffin-Lim start without the network", schedule))
    for text, schedule in found.items():
        own = split_sampler(text)[1]
        for sampler in [own] if own is not None else samplers:
            sampler = sampler_name(schedule, sampler)
            find_sampler(sampler)
            for n in gla_grads:
                name = f"{schedule.name} {sampler}" + (f" gla-grad-{n}" if n else "")
                title = f"WaveGrad, {len(schedule)} step{'s' * (len(schedule) > 1)}" + (f", GLA-Grad {n}" if n else "")
                systems.append(System(name, title, schedule, sampler, n))
    by_stem = {}  # the audio of both would go to one file
    for system in systems:
        if by_stem.setdefault(system.file_stem, system) is not system:
            raise InputError(f"'{system.name}' is asked for twice (expected: schedules of different names)")
    return systems


@dataclass(frozen=True)
class Measuring:
    """What a measurement depends on, beside system and recording.

    Args:
        checkpoint, filelist: paths.
        recordings, seconds, per_speaker: how many recordings, and how much of each; see `load_excerpts`.
        metrics: names in `METRICS`.
        seed: of the noise; every system gets the same noise for a recording.
        output, audio: folder, and of how many recordings it holds the audio.
        dtype: a name in `common.device.DTYPES`, what the network computes in.
        resample: convert recordings of another sample rate instead of refusing them.
    """

    checkpoint: str
    filelist: str
    recordings: Optional[int]
    seconds: Optional[float]
    metrics: tuple
    seed: int
    per_speaker: bool = False
    output: Path = Path()
    audio: int = 0
    dtype: str = "float32"
    resample: bool = False

    def audio_path(self, system, excerpt):
        """Where the audio of a system and recording is, relative to the folder."""
        return Path("audio") / excerpt.name / f"{system.file_stem}.flac"


class Measurer:
    """A network, recordings and metrics on a device.

    Raises:
        OSError, InputError: a file cannot be used.
    """

    def __init__(self, measuring, device):
        self.measuring, self.device = measuring, device
        network, self.config = load_network(measuring.checkpoint)
        self.network = network.to(device)
        self.mel_transform = LogMelSpectrogram(self.config.mel)
        conversions = Conversions(resample=measuring.resample)
        limits = measuring.recordings, measuring.seconds, conversions, measuring.per_speaker
        self.excerpts = load_excerpts(measuring.filelist, self.mel_transform, *limits)
        self._spectrum = functools.cache(MelSpectrum)  # the same for all systems

    @functools.cached_property
    def source(self):
        """What all results follow from, as JSON values."""
        checkpoint, measuring = file_digest(self.measuring.checkpoint), self.measuring
        return [checkpoint, fingerprint(self.excerpts), measuring.metrics, measuring.seed, measuring.dtype]

    @torch.inference_mode()
    def synthesize(self, system, index):
        """What a system makes of an excerpt's mel, `[T]`."""
        excerpt, config = self.excerpts[index], self.config
        if system.griffin_lim:
            return griffin_lim(excerpt.mel, config.mel, system.griffin_lim)
        mel = excerpt.mel[None].to(self.device)
        noises = excerpt_noises(index, len(excerpt.waveform), self.measuring.seed, self.device)
        pipeline = make_pipeline(self.network, config, system.schedule, system.sampler, system.gla_grad, self._spectrum).to(self.device)
        if system.sampler is None:
            return pipeline.start(next(noises), mel).clamp(-1, 1)[0].cpu()
        with autocast(self.device, DTYPES[self.measuring.dtype]):
            return pipeline(mel, noises=noises)[0].float().cpu()

    def figures(self, waveform, index):
        """The metrics of a waveform `[T]` beside the recording, by name; None where there is no value."""
        recording, metrics = self.excerpts[index].waveform, self.measuring.metrics
        values = {name: float(METRICS[name].measure(recording, waveform, self.mel_transform)) for name in metrics}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def measure(self, system, index):
        """Measures an excerpt of a system, and keeps its audio where it is wanted; returns an entry for `Results`."""
        excerpt, measuring, sample_rate = self.excerpts[index], self.measuring, self.config.mel.sample_rate
        waveform, seconds, digest = excerpt.waveform, None, None
        if system.name != RECORDING:
            start = synchronized_time(self.device)
            waveform = self.synthesize(system, index)
            seconds = synchronized_time(self.device) - start
        is_finite = bool(waveform.isfinite().all())
        if is_finite and index < measuring.audio:
            path = measuring.output / measuring.audio_path(system, excerpt)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_atomically(lambda temporary: soundfile.write(temporary, waveform.numpy(), sample_rate, format="FLAC"), path)
            digest = file_digest(path)
        return {
            "system": system.name,
            "recording": excerpt.name,
            "audio_seconds": len(excerpt.waveform) / sample_rate,
            "synthesis_seconds": seconds,
            "is_finite": is_finite,
            "audio_digest": digest,
            "figures": self.figures(waveform, index),
        }


@functools.lru_cache(maxsize=1)
def measurer_of(measuring):
    """The `Measurer` of this process."""
    return Measurer(measuring, device_of_worker())


def measure(measuring, system, index):
    """For `in_processes`: `Measurer.measure`."""
    return measurer_of(measuring).measure(system, index)


def score(measuring, system):
    """For `in_processes`: the mean of the first metric over the excerpts; None where one of them has no value."""
    measurer = measurer_of(measuring)
    figures = [measurer.figures(measurer.synthesize(system, index), index) for index in range(len(measurer.excerpts))]
    values = [of_one[measuring.metrics[0]] for of_one in figures]
    return None if None in values else float(np.mean(values))
