"""The recordings that a measurement is made on, and the noise that goes with each."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from datasets import Recordings
from model.errors import InputError


@dataclass(frozen=True)
class Excerpt:
    """Args:
        name: the recording's file name without its suffix.
        waveform: `[T]`, T a multiple of the hop length.
        mel: its log-mel spectrogram, `[n_mels, T / hop_length]`.
    """

    name: str
    waveform: torch.Tensor
    mel: torch.Tensor


def load_excerpts(filelist, mel, n_recordings=None, seconds=None):
    """Reads recordings of a filelist.

    Args:
        mel: a `LogMelSpectrogram`.
        n_recordings: how many, spread evenly over the list; None for all.
        seconds: take as much from the middle of each, or less where one of them is shorter, so that all have one length;
            None for whole recordings.

    Raises:
        OSError, InputError: a file cannot be used, or fewer recordings are listed than wanted.
    """
    if n_recordings is not None and n_recordings < 1:
        raise InputError(f"{n_recordings} recordings are asked for (wanted: 1 or more)")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"{seconds:g} seconds are asked for (wanted: more than 0)")
    recordings = Recordings(filelist, mel.config)
    n_recordings = len(recordings) if n_recordings is None else n_recordings
    if n_recordings > len(recordings):
        raise InputError(f"{filelist}: {len(recordings)} recordings (wanted: {n_recordings})")
    hop_length = mel.config.hop_length
    indices = np.linspace(0, len(recordings) - 1, n_recordings).round().astype(int)
    waveforms = [recordings[index] for index in indices]
    if seconds is not None:
        frames = round(seconds * mel.config.sample_rate / hop_length)
        frames = min([frames, *(len(waveform) // hop_length for waveform in waveforms)])
        starts = [(len(waveform) // hop_length - frames) // 2 * hop_length for waveform in waveforms]
        waveforms = [waveform[start : start + frames * hop_length] for start, waveform in zip(starts, waveforms)]
    return [
        Excerpt(recordings.paths[index].stem, waveform, mel(waveform)) for index, waveform in zip(indices, waveforms)
    ]


def fingerprint(excerpts):
    """A short digest of what the excerpts sound like."""
    digest = hashlib.sha256()
    for excerpt in excerpts:
        digest.update(excerpt.waveform.numpy().tobytes())
    return digest.hexdigest()[:16]


def excerpt_noises(indices, length, seed):
    """An endless stream of noise `[len(indices), length]`: excerpt `i` hears the same noise in whatever company it is."""
    seeds = [np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] for index in indices]
    generators = [torch.Generator().manual_seed(int(state)) for state in seeds]
    while True:
        yield torch.stack([torch.randn(length, generator=generator) for generator in generators])
