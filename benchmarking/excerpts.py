"""The recordings that a measurement is made on, and the noise that goes with each."""

import hashlib
import sys
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from common.audio import NO_CONVERSIONS
from common.errors import InputError
from datasets import Recordings


@dataclass(frozen=True)
class Excerpt:
    """A recording, or the middle of one, with its mel.

    Args:
        name: the recording's file name without its suffix, after its speaker and a slash where two files have the same.
        speaker: the name of the recording's folder.
        waveform: `[T]`, T a multiple of the hop length.
        mel: its log-mel spectrogram, `[n_mels, T / hop_length]`.
    """

    name: str
    speaker: str
    waveform: torch.Tensor
    mel: torch.Tensor


def spread(n, n_wanted):
    """Indices of `n_wanted` of `n` things, spread evenly over them, as an array."""
    return np.linspace(0, n - 1, n_wanted).round().astype(int)


def of_each_speaker(speakers, n_wanted):
    """Indices of `n_wanted` recordings of each speaker, spread over theirs, or of all where there are fewer: the speakers take turns.

    Args:
        speakers: of each recording.
    """
    own = {name: [index for index, speaker in enumerate(speakers) if speaker == name] for name in dict.fromkeys(speakers)}
    chosen = [[some[place] for place in spread(len(some), min(n_wanted, len(some)))] for some in own.values()]
    return [index for turn in zip_longest(*chosen) for index in turn if index is not None]


def load_excerpts(filelist, mel_transform, n_recordings=None, seconds=None, conversions=NO_CONVERSIONS, per_speaker=False):
    """Reads recordings of a filelist.

    Args:
        mel_transform: a `LogMelSpectrogram`.
        n_recordings: how many, spread evenly over the list; None for all.
        per_speaker: whether as many of each speaker are wanted; see `of_each_speaker`.
        conversions: what may be done to recordings that are not as wanted; see `common.audio.Conversions`.
        seconds: take as much from the middle of each, and all of a shorter one; None for whole recordings.

    Raises:
        OSError, InputError: a file cannot be used, or fewer recordings are listed than wanted.
    """
    longest = None if seconds is None else longest_excerpt(seconds, mel_transform.config)
    recordings = Recordings(filelist, mel_transform.config, conversions)
    n_recordings = len(recordings) if n_recordings is None else n_recordings
    if per_speaker:
        indices = of_each_speaker(recordings.speakers, n_recordings)
    elif n_recordings > len(recordings):
        raise InputError(f"{filelist}: {len(recordings)} recordings (expected: {n_recordings})")
    else:
        indices = spread(len(recordings), n_recordings)
    hop_length = mel_transform.config.hop_length
    waveforms = [recordings[index] for index in indices]
    if longest is not None:
        starts = [max(len(waveform) - longest, 0) // (2 * hop_length) * hop_length for waveform in waveforms]
        waveforms = [waveform[start : start + longest] for start, waveform in zip(starts, waveforms)]
    speakers = [recordings.speakers[index] for index in indices]
    names = [recordings.paths[index].stem for index in indices]
    if len(set(names)) < len(names):
        names = [f"{speaker}/{name}".lstrip("/") for speaker, name in zip(speakers, names)]
    return [Excerpt(name, speaker, waveform, mel_transform(waveform)) for name, speaker, waveform in zip(names, speakers, waveforms)]


def longest_excerpt(seconds, mel_config):
    """Samples of `seconds`, in whole frames.

    Raises:
        InputError: they are too few for a mel.
    """
    n_samples = round(seconds * mel_config.sample_rate / mel_config.hop_length) * mel_config.hop_length
    shortest = mel_config.n_fft // 2 + mel_config.hop_length
    if n_samples < shortest:
        least = -(-shortest // mel_config.hop_length) * mel_config.hop_length / mel_config.sample_rate
        raise InputError(f"--seconds is {seconds:g}, too short for this model's mels (expected: {least:g} or more)")
    return n_samples


def say_which_are_shorter(excerpts, seconds, mel_config):
    """One line on standard error where recordings are shorter than the seconds that are asked for."""
    if seconds is None:
        return
    shorter = [excerpt.name for excerpt in excerpts if len(excerpt.waveform) < longest_excerpt(seconds, mel_config)]
    if shorter:
        how_many = f"{len(shorter)} of {len(excerpts)} recordings are shorter than {seconds:g} s, and taken whole"
        print(f"note: {how_many}: {listed(shorter)}", file=sys.stderr)


def listed(names, most=5):
    """The first names of a list, and how many more there are, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def fingerprint(excerpts):
    """A short digest of the excerpts' samples."""
    digest = hashlib.sha256()
    for excerpt in excerpts:
        digest.update(excerpt.waveform.numpy().tobytes())
    return digest.hexdigest()[:16]


def excerpt_noises(indices, length, seed):
    """An endless stream of noise `[len(indices), length]`; that of an excerpt depends on its index and the seed alone."""
    seeds = [np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] for index in indices]
    generators = [torch.Generator().manual_seed(int(state)) for state in seeds]
    while True:
        yield torch.stack([torch.randn(length, generator=generator) for generator in generators])


def file_digest(path):
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
