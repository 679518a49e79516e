"""Measures systems on one recording: metrics, time, and audio to listen to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarking.tools.excerpts import excerpt_noises, load_excerpts
from benchmarking.tools.systems import RECORDING
from common.audio import Conversions
from common.device import DTYPES, autocast, synchronized_time
from common.files import save_atomically
from metrics import METRICS
from model.checkpoint import load_network
from model.gla_grad import GlaGrad
from model.mel.griffin_lim import griffin_lim
from model.mel.transform import LogMelSpectrogram
from model.noise_schedule import linear
from model.sampler import SAMPLERS, find_sampler

WARM_UP_FRAMES = 50


class CountedNetwork:
    """A network that counts its calls."""

    def __init__(self, network):
        self.network = network
        self.hop_length, self.prior, self.estimate = network.hop_length, network.prior, network.estimate
        self.n_calls = 0

    def __call__(self, *arguments):
        self.n_calls += 1
        return self.network(*arguments)


@dataclass(frozen=True)
class Measuring:
    """What a measurement depends on, beside system and recording.

    Args:
        checkpoint, filelist: paths.
        n_recordings, seconds: how many, and how much of each; see `load_excerpts`.
        metrics: names in `metrics.METRICS`.
        seed: of the noise; every system gets the same noise for a recording.
        n_audio: of how many recordings the audio is wanted.
        dtype: a name in `common.device.DTYPES`, what the network computes in.
        resample: convert recordings of another sample rate instead of refusing them.
        per_speaker: whether `n_recordings` are of each speaker.
    """

    checkpoint: str
    filelist: str
    n_recordings: int
    seconds: float
    metrics: tuple
    seed: int
    n_audio: int
    dtype: str = "float32"
    resample: bool = False
    per_speaker: bool = False


def audio_path(system, excerpt):
    """Where the audio of a system and recording is, relative to the folder."""
    return Path("audio") / excerpt.name / f"{system.file_stem}.flac"


def save_audio(path, waveform, sample_rate):
    """Writes a finite NumPy array `[T]` as FLAC, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda temporary: soundfile.write(temporary, waveform, sample_rate, format="FLAC"), path)


class Measurer:
    """`Measurer(measuring, device)((systems, index))` measures recording `index` with systems that share one sampling.

    It returns a pair for each system: its entry of the journal, and its waveform `[T]`, None where the audio is not wanted or
    holds NaN or infinity. Nothing is written here: what a process was killed at is not in the journal either.

    Raises:
        OSError, InputError: a file cannot be used.
    """

    def __init__(self, measuring, device):
        self.measuring, self.device = measuring, device
        network, self.config = load_network(measuring.checkpoint)
        self.network = CountedNetwork(network.to(device))
        self.mel_transform = LogMelSpectrogram(self.config.mel)
        conversions = Conversions(resample=measuring.resample)
        self.excerpts = load_excerpts(
            measuring.filelist, self.mel_transform, measuring.n_recordings, measuring.seconds, conversions, measuring.per_speaker
        )
        self.is_warm = False

    def _warm_up(self):
        mel = torch.zeros(1, self.config.mel.n_mels, WARM_UP_FRAMES, device=self.device)
        SAMPLERS["ancestral"](self.network, mel, linear(2, 0.1, 0.5), torch.Generator().manual_seed(0))
        self.is_warm = True

    def sample(self, system, index):
        """What a system makes before its correction, `[T]`, and the seconds that it took; None where nothing is computed."""
        excerpt = self.excerpts[index]
        if system.name == RECORDING:
            return excerpt.waveform, None
        if system.griffin_lim:
            start = synchronized_time(torch.device("cpu"))
            waveform = griffin_lim(excerpt.mel, self.config.mel, system.griffin_lim)
            return waveform, synchronized_time(torch.device("cpu")) - start
        if not self.is_warm:
            self._warm_up()
        mel = excerpt.mel[None].to(self.device)
        noises = (noise.to(self.device) for noise in excerpt_noises([index], len(excerpt.waveform), self.measuring.seed))
        self.network.n_calls = 0
        start = synchronized_time(self.device)
        if system.estimate is not None:
            schedule = system.estimate
            waveform = self.network.estimate(next(noises), mel, schedule.griffin_lim, schedule.look_ahead).clamp(-1, 1)
        elif system.schedule is None:
            waveform = self.network.prior(mel) * next(noises)
        else:
            with autocast(self.device, DTYPES[self.measuring.dtype]):
                waveform = find_sampler(system.sampler)(self.network, mel, system.schedule, noises=noises)
        return waveform[0].cpu(), synchronized_time(self.device) - start

    def correct(self, system, index, waveform):
        """What GLA-Grad makes of a sampled waveform, `[T]`, and the seconds that it took."""
        gla_grad = GlaGrad(self.config.mel, system.gla_grad).to(self.device)
        waveform, mel = waveform[None].to(self.device), self.excerpts[index].mel[None].to(self.device)
        start = synchronized_time(self.device)
        return gla_grad(waveform, mel)[0].cpu(), synchronized_time(self.device) - start

    def __call__(self, task):
        systems, index = task
        sampled, sampling_seconds = self.sample(systems[0], index)
        entries = []
        for system in systems:
            waveform, seconds = sampled, sampling_seconds
            if system.gla_grad:
                waveform, correction_seconds = self.correct(system, index, sampled)
                seconds += correction_seconds
            entries.append(self._entry(system, index, waveform, seconds))
        return entries

    def _entry(self, system, index, waveform, seconds):
        excerpt, sample_rate = self.excerpts[index], self.config.mel.sample_rate
        is_finite = bool(waveform.isfinite().all())
        values = {name: METRICS[name].measure(excerpt.waveform, waveform, self.mel_transform) for name in self.measuring.metrics}
        entry = {
            "key": system.key,
            "recording": excerpt.name,
            "network_calls": self.network.n_calls if system.schedule is not None else 0,
            "audio_seconds": len(excerpt.waveform) / sample_rate,
            "synthesis_seconds": seconds,
            "is_finite": is_finite,
            "figures": {name: value if np.isfinite(value) else None for name, value in values.items()},
        }
        return entry, waveform.numpy() if is_finite and index < self.measuring.n_audio else None
