"""Filelists, and the recordings and mel files behind them."""

import pickle
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset

from model.errors import InputError


AUDIO_SUFFIXES = {".wav", ".flac"}
MEL_SUFFIXES = {".npy", ".pt"}


def read_filelist(path, suffixes=AUDIO_SUFFIXES):
    """Reads a list of files, in one of the layouts that people have.

    - One path a line, relative to the filelist's folder or absolute; empty lines are skipped.
    - `path|text`, or `path|speaker|text`: what follows the first bar is not read.
    - LJSpeech's `metadata.csv`: names without a suffix, whose files are beside the list or in the folder `wavs` beside it.
    - A folder: the files in it and its subfolders that have one of `suffixes`, by name.

    Returns:
        list of `Path`.

    Raises:
        OSError: the filelist cannot be read.
        InputError: the filelist is empty or not text, or the folder has no such files.
    """
    path = Path(path)
    if path.is_dir():
        paths = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not paths:
            raise InputError(f"{path}: the folder holds no files to read (wanted: {', '.join(sorted(suffixes))})")
        return paths
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file (wanted: a filelist, one path a line)") from None
    names = [line.split("|")[0].strip() for line in lines if line.strip()]
    if "" in names:
        raise InputError(f"{path}: line {names.index('') + 1} names no file before its first bar")
    if not names:
        raise InputError(f"{path}: the filelist is empty")
    return [_find(path.parent, name) for name in names]


def _find(folder, name):
    """The file that a filelist in `folder` calls `name`, with the suffix and subfolder that LJSpeech's own list leaves out."""
    path = folder / name
    if path.suffix.lower() in AUDIO_SUFFIXES | MEL_SUFFIXES:
        return path
    candidates = [parent / f"{name}{suffix}" for parent in (folder, folder / "wavs") for suffix in sorted(AUDIO_SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def check_audio(path, sample_rate, mix_to_mono=False):
    """Reads the header of a recording and returns its number of samples.

    Raises:
        OSError: there is no such file.
        InputError: the file is unreadable, empty, of another sample rate, or has several channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError:
        raise InputError(f"{path}: not a readable audio file") from None
    if info.samplerate != sample_rate:
        raise InputError(f"{path}: sample rate is {info.samplerate} Hz (wanted: {sample_rate} Hz)")
    if info.channels != 1 and not mix_to_mono:
        raise InputError(f"{path}: {info.channels} channels (wanted: 1, or mix_to_mono)")
    if info.frames == 0:
        raise InputError(f"{path}: the recording is empty")
    return info.frames


def read_audio(path, sample_rate, mix_to_mono=False):
    """Reads a recording as `[T]` float32 in [-1, 1].

    Raises:
        OSError, InputError: as `check_audio`.
    """
    check_audio(path, sample_rate, mix_to_mono)
    try:
        audio, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise InputError(f"{path}: not a readable audio file") from None
    return torch.from_numpy(audio.mean(axis=1))


def read_mel(path, n_mels):
    """Reads a log-mel spectrogram from `.npy` or `.pt`, `[n_mels, frames]` or `[1, n_mels, frames]`.

    Returns:
        `[n_mels, frames]`, float32.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is not one array of numbers, has another shape, is empty, or holds NaN or infinity.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            mel = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            mel = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError):
        raise InputError(f"{path}: not a file of one plain tensor, or a damaged one") from None
    if not torch.is_tensor(mel):
        raise InputError(f"{path}: holds a {type(mel).__name__} (wanted: one tensor)")
    shape = list(mel.shape)
    if mel.ndim == 3 and shape[0] == 1:
        mel = mel[0]
    if mel.ndim != 2 or mel.shape[0] != n_mels:
        hint = "; frames along the first axis?" if mel.ndim == 2 and mel.shape[1] == n_mels else ""
        raise InputError(f"{path}: mel has shape {shape} (wanted: [{n_mels}, frames] or [1, {n_mels}, frames]{hint})")
    if mel.shape[1] == 0:
        raise InputError(f"{path}: mel has no frames")
    if mel.is_complex() or mel.dtype == torch.bool:
        raise InputError(f"{path}: mel holds {mel.dtype} (wanted: real numbers)")
    mel = mel.float()
    if not mel.isfinite().all():
        raise InputError(f"{path}: mel holds NaN or infinity")
    return mel


class Recordings(Dataset):
    """Whole recordings, cut to a multiple of the hop length. Every file is checked here, before anything else is done.

    Args:
        filelist: path of a filelist.
        mel_config: a `model.config.MelConfig`; recordings must have its sample rate.
        mix_to_mono: average the channels of a recording with several instead of refusing it.

    Raises:
        OSError, InputError: the filelist or one of its files cannot be used; the message names the file.
    """

    def __init__(self, filelist, mel_config, mix_to_mono=False):
        self.paths = read_filelist(filelist)
        self.mel_config = mel_config
        self.mix_to_mono = mix_to_mono
        self.n_samples = [check_audio(path, mel_config.sample_rate, mix_to_mono) for path in self.paths]
        shortest = mel_config.n_fft // 2 + mel_config.hop_length
        for path, n_samples in zip(self.paths, self.n_samples):
            if n_samples < shortest:
                raise InputError(f"{path}: {n_samples} samples are too short (wanted: {shortest} or more)")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        audio = read_audio(self.paths[index], self.mel_config.sample_rate, self.mix_to_mono)
        return audio[: len(audio) // self.mel_config.hop_length * self.mel_config.hop_length]

    def segment(self, index, n_frames, context, generator):
        """A random segment of a recording, with its surroundings.

        Args:
            n_frames: length of the segment in mel frames. A shorter recording is followed by silence.
            context: samples wanted to the left and right of the segment, so that its mel can be that of the whole
                recording. Beyond the recording's ends stands what the mel's padding says, as it does for the whole.
            generator: source of the position.

        Returns:
            `[left + n_frames * hop_length + right]` samples.
        """
        length = n_frames * self.mel_config.hop_length
        audio = self[index].numpy()
        if len(audio) < length:
            audio = np.pad(audio, (0, length - len(audio)))
        last_frame = (len(audio) - length) // self.mel_config.hop_length
        frame = int(torch.randint(last_frame + 1, (1,), generator=generator))
        start = frame * self.mel_config.hop_length
        surrounded = np.pad(audio, context, mode=self.mel_config.pad_mode)
        return torch.from_numpy(surrounded[start : start + context[0] + length + context[1]])
