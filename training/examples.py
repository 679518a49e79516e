"""Numbered training examples, and which process sees which of them when.

An example is a pure function of the seed and its number: which recording, which segment, which noise, which noise level.
So a run is the same for any number of processes and data workers, and resuming needs only the next example's number.
"""

import signal
import threading
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from common.errors import InputError
from common.jobs import usable_cores
from model.diffusion import sample_noise_level
from training.safety import STOPPING

LOWEST_CORNER = 0.25  # of the highest
SLOPE = 0.05  # the gain falls from 1 at (1 - SLOPE) * corner to 0 at the corner
SHUTDOWN_SECONDS = 10.0  # for data workers to end by themselves


class Batch(NamedTuple):
    """Examples of an optimiser step, or one of them, without the first axis.

    Keys:
        segment: samples with the context that mel and prior need, `[B, left + T + right]`.
        noise: standard normal, `[B, T]`.
        noise_level: sqrt(alpha_bar), `[B]`.
        number: which examples these are, `[B]`.
        mel: of the segment, `[B, n_mels, frames]`, from a mel file; `[B, n_mels, 0]` where it is to be computed.
    """

    segment: torch.Tensor
    noise: torch.Tensor
    noise_level: torch.Tensor
    number: torch.Tensor
    mel: torch.Tensor

    def split(self, n):
        """Portions of up to `n` examples."""
        return [Batch(*parts) for parts in zip(*(part.split(n) for part in self))]


class DiffusionExamples(Dataset):
    """Endless numbered training examples.

    Args:
        recordings: a `datasets.Recordings`.
        data: a `model.config.DataConfig`: its `segment_frames`, `even_over_speakers` and `low_pass_share`.
        context: samples to the left and right of the segment that its mel needs.
        schedule: the `NoiseSchedule` that noise levels are drawn from.
        seed: seed of all examples.
        margin_frames: of signal to the left and right of the segment, as a prior needs them.
    """

    def __init__(self, recordings, data, context, schedule, seed, margin_frames=0):
        self.recordings, self.data, self.context = recordings, data, context
        self.schedule, self.seed, self.margin_frames = schedule, seed, margin_frames
        self.highest_corner = recordings.mel_config.f_max / (recordings.mel_config.sample_rate / 2)
        speakers, n_recordings = recordings.speakers, len(recordings)
        self.recording_of = EvenOverSpeakers(speakers, seed) if data.even_over_speakers else EpochShuffle(n_recordings, seed)

    def __getitem__(self, number):
        """Returns the example of a number, a `Batch` of one without its first axis."""
        epoch, place = divmod(number, len(self.recordings))
        seed = np.random.SeedSequence((self.seed, epoch, place)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed))
        n_frames = self.data.segment_frames + 2 * self.margin_frames
        segment, mel = self.recordings.segment(self.recording_of(number), n_frames, self.context, generator)
        if self.data.low_pass_share:
            own = torch.Generator().manual_seed(int(seed) ^ 1)  # noise and noise level are those of a run without the filter
            if torch.rand((), generator=own) < self.data.low_pass_share:
                segment = random_low_pass(segment, self.highest_corner, own)
        noise = torch.randn((len(segment) - sum(self.context)) // n_frames * self.data.segment_frames, generator=generator)
        noise_level = sample_noise_level(self.schedule, 1, generator)[0]
        return Batch(segment, noise, noise_level, torch.tensor(number), mel)

    def __getitems__(self, numbers):
        """The examples of a batch; or the error that reading them met, which `batches` raises.

        A data worker that raised it itself would have PyTorch bury the message in a traceback.
        """
        try:
            return [self[number] for number in numbers]
        except (InputError, OSError) as error:
            return error


def batch_numbers(position, n_batches, batch_size, rank=0, world_size=1):
    """Yields the example numbers of one process's share of each batch.

    Args:
        position: number of the first batch's first example.
        n_batches: number of batches.
        batch_size: examples of a batch, over all processes.
        rank, world_size: which of how many processes.
    """
    share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
    for start in range(position, position + n_batches * batch_size, batch_size):
        yield range(start, start + batch_size)[share]


def batches(examples, numbers, n_workers=0, pin_memory=False):
    """Iterates over one process's batches, each a `Batch`.

    Args:
        examples: a `DiffusionExamples`.
        numbers: from `batch_numbers`.
        n_workers: processes that prepare batches ahead, as far as there are cores; 0 prepares them here.

    Raises:
        OSError, InputError: a recording cannot be read any more.
        RuntimeError: a worker was killed, or has no shared memory.
    """
    n_workers = min(n_workers, usable_cores())
    loader = DataLoader(
        examples,
        batch_sampler=numbers,
        num_workers=n_workers,
        # Forked workers end when this process is killed; those of a fork server, newer Pythons' default, wait for ever.
        multiprocessing_context="fork" if n_workers else None,
        pin_memory=pin_memory,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_parent,
        generator=torch.Generator(),  # else each start of a loader would draw from the global one, which is saved
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        if n_workers:
            _end_workers(iterator)


def _end_workers(iterator):
    """Lets a loader's iterator end its data workers, and kills those that do not end: Python would wait for them for ever.

    The iterator has no public way to end before its last reference goes, and a traceback may hold that.
    """
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's raises an error, here too, when a worker is killed
    shutdown = threading.Thread(target=iterator._shutdown_workers, daemon=True)
    shutdown.start()
    shutdown.join(SHUTDOWN_SECONDS)
    for worker in iterator._workers:
        worker.kill()
    for worker in iterator._workers:
        worker.join(SHUTDOWN_SECONDS)
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _collate(examples):
    return examples if isinstance(examples, Exception) else default_collate(examples)


def _leave_signals_to_parent(_):
    """Ctrl-C reaches every process of the terminal; data workers go on until the parent has saved and ends them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class EpochShuffle:
    """Every epoch runs through all recordings in an order of its own.

    Args:
        n_recordings: number of the recordings.
        seed: of the orders; a number, or several.
    """

    def __init__(self, n_recordings, seed):
        self.n_recordings, self.seed = n_recordings, seed if isinstance(seed, tuple) else (seed,)

    def __call__(self, number):
        epoch, place = divmod(number, self.n_recordings)
        return int(np.random.default_rng((*self.seed, epoch)).permutation(self.n_recordings)[place])


class EvenOverSpeakers:
    """Every round has one example of each speaker; the recordings of a speaker come in turn.

    Args:
        speakers: of each recording, the speaker's name.
        seed: of the orders.
    """

    def __init__(self, speakers, seed):
        self.seed = seed
        self.recordings_of = [[i for i, name in enumerate(speakers) if name == speaker] for speaker in sorted(set(speakers))]
        self.in_turn = [EpochShuffle(len(of_speaker), (seed, 1 + k)) for k, of_speaker in enumerate(self.recordings_of)]

    def __call__(self, number):
        n_speakers = len(self.recordings_of)
        rounds, place = divmod(number, n_speakers)
        speaker = np.random.default_rng((self.seed, 0, rounds)).permutation(n_speakers)[place]
        return self.recordings_of[speaker][self.in_turn[speaker](rounds)]


def low_pass(waveform, corner):
    """Removes what is above a frequency.

    Args:
        waveform: `[T]`.
        corner: the frequency, relative to half the sample rate.

    Returns:
        `[T]`.
    """
    spectrum = torch.fft.rfft(waveform)
    frequencies = torch.linspace(0, 1, len(spectrum))
    gain = ((corner - frequencies) / (SLOPE * corner)).clamp(0, 1)
    return torch.fft.irfft(spectrum * gain, n=len(waveform))


def random_low_pass(waveform, highest_corner, generator):
    """Removes what is above a random frequency, uniform between a quarter of `highest_corner` and the whole; see `low_pass`."""
    corner = torch.empty(()).uniform_(LOWEST_CORNER * highest_corner, highest_corner, generator=generator)
    return low_pass(waveform, corner)
