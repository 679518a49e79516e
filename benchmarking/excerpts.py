"""The recordings that a measurement is made on, and the noise that goes with each."""

import hashlib
import math
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from common.audio import NO_CONVERSIONS
from common.errors import InputError
from datasets import Recordings
from model.pipeline import standard_normal


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
    hop_length, n_samples = mel_transform.config.hop_length, _samples_of(seconds, mel_transform.config)
    recordings = Recordings(filelist, mel_transform.config, conversions)
    n_recordings = len(recordings) if n_recordings is None else n_recordings
    if per_speaker:
        indices = of_each_speaker(recordings.speakers, n_recordings)
    elif n_recordings > len(recordings):
        raise InputError(f"{filelist}: {len(recordings)} recordings (expected: {n_recordings})")
    else:
        indices = spread(len(recordings), n_recordings)
    names = [recordings.paths[index].stem for index in indices]
    is_shared, excerpts = len(set(names)) < len(names), []
    for name, index in zip(names, indices):
        waveform, speaker = recordings[index], recordings.speakers[index]
        if n_samples is not None and len(waveform) > n_samples:
            start = (len(waveform) - n_samples) // (2 * hop_length) * hop_length
            waveform = waveform[start : start + n_samples]
        excerpts.append(Excerpt(f"{speaker}/{name}".lstrip("/") if is_shared else name, speaker, waveform, mel_transform(waveform)))
    return excerpts


def _samples_of(seconds, mel_config):
    """Samples of `seconds`, in whole frames; None for None."""
    if seconds is None:
        return None
    frames_in_a_second = mel_config.sample_rate / mel_config.hop_length
    n_frames, least = round(seconds * frames_in_a_second), math.ceil(mel_config.n_fft / 2 / mel_config.hop_length) + 1
    if n_frames < least:
        least = f"{least / frames_in_a_second:g}"
        raise InputError(f"--seconds is {seconds:g}, too short for this model's mels (expected: {least} or more)")
    return n_frames * mel_config.hop_length


def listed(names, most=5):
    """The first names of a list, and how many more there are, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def fingerprint(excerpts):
    """A short digest of the excerpts' samples."""
    return hashlib.sha256(b"".join(excerpt.waveform.numpy().tobytes() for excerpt in excerpts)).hexdigest()[:16]


def excerpt_noises(index, length, seed, device):
    """An endless stream of noise `[1, length]` for an excerpt, which depends on its index and the seed alone."""
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]
    return standard_normal((1, length), torch.Generator().manual_seed(int(state)), device)


def file_digest(path):
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
