"""The score of a noise schedule: one metric, the same recordings and the same noise for every schedule."""

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarking.tools.excerpts import excerpt_noises, load_excerpts
from common.errors import InputError
from metrics import METRICS
from model.checkpoint import load_network
from model.mel.transform import LogMelSpectrogram
from model.noise_schedule import NoiseSchedule
from model.sampler import find_sampler

LARGEST_BATCH = 8  # excerpts in one network call


@dataclass(frozen=True)
class Scoring:
    """What a score depends on, beside the schedule.

    Args:
        checkpoint: path of the network.
        filelist: path of the recordings.
        n_recordings, seconds: how many, and how much of each; see `load_excerpts`.
        metric: a name in `metrics.METRICS`.
        sampler: a name for `find_sampler`.
        seed: of the noise.
    """

    checkpoint: str
    filelist: str
    n_recordings: int
    seconds: float
    metric: str
    sampler: str
    seed: int


class Scorer:
    """Scores betas; `Scorer(scoring, device)(betas)` is a function of these arguments alone.

    Args:
        scoring: a `Scoring`.
        device: where the network computes.

    Raises:
        OSError, InputError: a file or name in `scoring` cannot be used.
    """

    def __init__(self, scoring, device):
        self.seed = scoring.seed
        self.sampler = find_sampler(scoring.sampler)
        if scoring.metric not in METRICS:
            raise InputError(f"metric '{scoring.metric}' is unknown (wanted: {', '.join(METRICS)})")
        self.metric = METRICS[scoring.metric]
        network, config = load_network(scoring.checkpoint)
        self.network = network.to(device)
        self.mel_transform = LogMelSpectrogram(config.mel)
        self.excerpts = load_excerpts(scoring.filelist, self.mel_transform, scoring.n_recordings, scoring.seconds)
        self.device = device
        self.batches = batches_of_one_length(self.excerpts)

    def without_value(self):
        """Names of the excerpts for which the metric has no value, even compared with themselves."""
        values = [self.metric.measure(excerpt.waveform, excerpt.waveform, self.mel_transform) for excerpt in self.excerpts]
        return [excerpt.name for excerpt, value in zip(self.excerpts, values) if not math.isfinite(value)]

    def synthesize(self, schedule):
        """The excerpts' waveforms from their mels, a list of `[T]` on the CPU."""
        waveforms = {}
        for indices in self.batches:
            mel = torch.stack([self.excerpts[index].mel for index in indices]).to(self.device)
            length = len(self.excerpts[indices[0]].waveform)
            noises = (noise.to(self.device) for noise in excerpt_noises(indices, length, self.seed))
            waveforms |= zip(indices, self.sampler(self.network, mel, schedule, noises=noises).cpu())
        return [waveforms[index] for index in range(len(self.excerpts))]

    def __call__(self, betas):
        """Mean of the metric over the excerpts; NaN where one of them has no value."""
        waveforms = self.synthesize(NoiseSchedule(betas))
        if not all(torch.isfinite(waveform).all() for waveform in waveforms):
            return math.nan
        pairs = zip(self.excerpts, waveforms)
        return float(np.mean([self.metric.measure(excerpt.waveform, waveform, self.mel_transform) for excerpt, waveform in pairs]))


def batches_of_one_length(excerpts):
    """Lists of indices of excerpts that are equally long, at most `LARGEST_BATCH` in each."""
    of_length = {}
    for index, excerpt in enumerate(excerpts):
        of_length.setdefault(len(excerpt.waveform), []).append(index)
    return [some[start : start + LARGEST_BATCH] for some in of_length.values() for start in range(0, len(some), LARGEST_BATCH)]


def scorer_factory(scoring):
    """`make_worker` for `start_workers`."""
    return partial(Scorer, scoring)


def file_digest(path):
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
