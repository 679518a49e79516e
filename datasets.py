"""Filelists, and the recordings that training reads from them."""

import codecs
import os
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.audio import AUDIO_SUFFIXES, NO_CONVERSIONS, Conversions, check_audio, read_audio, unusual
from common.errors import InputError
from common.files import check_regular
from common.scan import scan
from model.config import MelConfig
from model.mel import MEL_SUFFIXES, read_mel

N_LOOKED_AT, SAMPLES_LOOKED_AT = 20, 1 << 18  # recordings, and samples from the beginning of each
MOST_FRAMES_APART = 2  # definitions of a mel differ by so many frames at the ends of a recording


def spread(n: int, most: int) -> range:
    """Up to `most` of the indices below `n`, at equal distances."""
    return range(0, n, -(-n // most))


def read_filelist(path, suffixes: set = AUDIO_SUFFIXES) -> list[Path]:
    """Reads a list of files, in one of the layouts that people have.

    - One path a line, relative to the filelist's folder or absolute; empty lines are skipped.
    - `path|text`, or `path|speaker|text`: what follows the first bar is not read, unless there is a file of the longer name.
    - LJSpeech's `metadata.csv`: names without a suffix, whose files are beside the list or in the folder `wavs` beside it.
    - A folder: the files in it and its subfolders that have one of `suffixes`, by name; see `common.scan`.
    - A file that has one of `suffixes` itself.

    Returns:
        list of `Path`.

    Raises:
        OSError: the filelist cannot be read.
        InputError: the filelist is empty or not text, or the folder has no such files.
    """
    path = Path(path)
    if path.is_dir():
        paths = scan(path, suffixes)
        if not paths:
            raise InputError(f"{path}: the folder holds no files to read (expected: {', '.join(sorted(suffixes))})")
        return paths
    if path.suffix.lower() in suffixes:
        check_regular(path)
        return [path]
    paths = []
    for number, line in _lines(path):
        paths.append(_find(path.parent, line))
        if paths[-1] is None:
            raise InputError(f"{path}: line {number} names no file before its first bar")
    return paths


def _lines(path):
    """The lines of a filelist that are not empty, with their numbers.

    Raises:
        OSError, InputError: as `read_filelist`.
    """
    check_regular(path)
    content = path.read_bytes()
    if b"\0" in content:
        raise InputError(f"{path}: not a text file (expected: a filelist, one path a line)")
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))  # whatever encoding the names have, the files have it too
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise InputError(f"{path}: the filelist is empty")
    return numbered


def read_mel_paths(path) -> Optional[list[Path]]:
    """The mel files of a filelist of pairs, `audio|mel` or `audio|mel|text` a line; None where it is a list of recordings alone.

    Raises:
        OSError: the filelist or a mel file cannot be read.
        InputError: some lines name a mel file after the first bar, and others do not.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in AUDIO_SUFFIXES:
        return None
    paths = []
    for number, line in _lines(path):
        name = f"{line}|".split("|")[1].strip()
        paths.append(path.parent / name if Path(name).suffix.lower() in MEL_SUFFIXES else None)
        if (paths[-1] is None) != (paths[0] is None):
            raise InputError(
                f"{path}: line {number} names {'no' if paths[0] else 'a'} mel file, unlike those before (expected: all or none)"
            )
    return paths if paths[0] else None


def _find(folder, line):
    """The file that a line of a filelist in `folder` means, whether it is there or not; None if it names none.

    Blanks at its ends and bars belong to a name if there is a file of that name.
    """
    parts = line.split("|")
    for n_parts in range(len(parts), 0, -1):
        prefix = "|".join(parts[:n_parts])
        for name in (prefix, prefix.strip()):
            if name and os.path.isfile(folder / name):
                return folder / name
    name = parts[0].strip()
    if not name:
        return None
    path = folder / name
    if path.suffix.lower() in AUDIO_SUFFIXES | MEL_SUFFIXES:
        return path
    suffixes = [case for suffix in sorted(AUDIO_SUFFIXES) for case in (suffix, suffix.upper())]
    candidates = [parent / f"{name}{suffix}" for parent in (folder, folder / "wavs") for suffix in suffixes]
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), path)


class Recordings(Dataset):
    """Whole recordings, cut to a multiple of the hop length. Every file is checked here, before anything else is done.

    A filelist of pairs, `audio|mel`, gives the mels too; otherwise they are to be computed.

    Args:
        filelist: path of a filelist.
        mel_config: a `model.config.MelConfig`; recordings must have its sample rate.
        conversions: what may be done to recordings that are not as expected; see `common.audio.Conversions`.

    Attributes:
        paths, n_samples: of each recording.
        speakers: of each recording, the name of its folder.
        mel_paths: of each recording, or None.

    Raises:
        OSError, InputError: the filelist or one of its files cannot be used; the message names the file.
    """

    def __init__(self, filelist, mel_config: MelConfig, conversions: Conversions = NO_CONVERSIONS):
        self.filelist, self.paths = filelist, read_filelist(filelist)
        self.mel_config = mel_config
        self.conversions = conversions
        checked = [check_audio(path, mel_config.sample_rate, conversions) for path in self.paths]
        self.n_samples, self.peaks = map(list, zip(*checked))
        shortest = mel_config.n_fft // 2 + mel_config.hop_length
        for path, n_samples in zip(self.paths, self.n_samples):
            if n_samples < shortest:
                raise InputError(f"{path}: {n_samples} samples are too short (expected: {shortest} or more)")
        self.speakers = [Path(os.path.abspath(path)).parent.name for path in self.paths]
        self.mel_paths = read_mel_paths(filelist)
        for index in range(len(self.paths)) if self.mel_paths else ():
            self._check_mel(index)

    def warnings(self) -> list[str]:
        """Lines on samples beyond [-1, 1], and, of some recordings spread over the list, on offsets and channels in opposite phase."""
        peak, loudest = max(zip(self.peaks, map(str, self.paths)))
        n_loud = sum(peak > 1 for peak in self.peaks)
        lines = [f"{self.filelist}: {n_loud} recordings exceed [-1, 1], most of all {loudest}, with {peak:.3g}"] if n_loud else []
        looked_at, odd = spread(len(self.paths), N_LOOKED_AT), []
        for index in looked_at:
            audio = self._read(index, 0, min(self.n_samples[index], SAMPLES_LOOKED_AT))
            odd += unusual(self.paths[index], audio.clamp(-1, 1), SAMPLES_LOOKED_AT)  # how loud it is was said above
        return lines + ([f"{len(odd)} of {len(looked_at)} recordings that were looked at: {odd[0]}"] if odd else [])

    def _check_mel(self, index):
        """Refuses a mel of another length than its recording's, and cuts the longer one to the shorter."""
        n_frames, hop_length = self.mel(index).shape[1], self.mel_config.hop_length
        if abs(n_frames - self.n_samples[index] / hop_length) > MOST_FRAMES_APART:
            raise InputError(
                f"{self.mel_paths[index]}: {n_frames} frames of {hop_length} samples, but {self.paths[index]} has {self.n_samples[index]} "
                f"samples (expected: a mel of the same length, within {MOST_FRAMES_APART} frames)"
            )
        self.n_samples[index] = min(self.n_samples[index], n_frames * hop_length)

    def __len__(self):
        return len(self.paths)

    def mel(self, index: int) -> Optional[Tensor]:
        """The mel file of a recording, `[n_mels, frames]`; None where there is none."""
        return read_mel(self.mel_paths[index], self.mel_config.n_mels) if self.mel_paths else None

    def length(self, index: int) -> int:
        """Samples of a recording, those of whole frames."""
        return self.n_samples[index] // self.mel_config.hop_length * self.mel_config.hop_length

    def _read(self, index, start, stop):
        return read_audio(self.paths[index], self.mel_config.sample_rate, self.conversions, start, stop)

    def __getitem__(self, index: int) -> Tensor:
        return self._read(index, 0, self.length(index))

    def segment(self, index: int, n_frames: int, context: tuple, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random segment of a recording, with its surroundings. No more of the file is read than that.

        Args:
            n_frames: length of the segment in mel frames. A shorter recording is followed by silence.
            context: samples expected to the left and right of the segment, so that its mel can be that of the whole
                recording. Beyond the recording's ends stands what the mel's padding says, as it does for the whole.
            generator: source of the position.

        Returns:
            `[left + n_frames * hop_length + right]` samples, and the mel file's `[n_mels, n_frames]`, or `[n_mels, 0]` where there is
            none. A mel is followed by its smallest value where the recording is shorter than the segment.
        """
        length, n_samples = n_frames * self.mel_config.hop_length, self.length(index)
        total = max(n_samples, length)
        last_frame = (total - length) // self.mel_config.hop_length
        start = int(torch.randint(last_frame + 1, (1,), generator=generator)) * self.mel_config.hop_length
        expected = np.arange(start - context[0], start + length + context[1])
        places, is_inside = expected, (expected >= 0) & (expected < total)
        if self.mel_config.pad_mode == "reflect":
            period = 2 * (total - 1)
            places = np.minimum(expected % period, -expected % period)  # there and back again
            is_inside = np.ones_like(is_inside)
        is_inside &= places < n_samples
        first, last = places[is_inside].min(), places[is_inside].max()
        segment = torch.zeros(len(expected))
        segment[is_inside] = self._read(index, int(first), int(last) + 1)[places[is_inside] - first]
        return segment, self._mel_segment(index, start // self.mel_config.hop_length, n_frames)

    def _mel_segment(self, index, start, n_frames):
        if self.mel_paths is None:
            return torch.empty(self.mel_config.n_mels, 0)
        mel = self.mel(index)
        segment = torch.full((len(mel), n_frames), mel.min().item())
        found = mel[:, start : min(start + n_frames, self.length(index) // self.mel_config.hop_length)]
        segment[:, : found.shape[1]] = found
        return segment
