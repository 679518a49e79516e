"""Recordings: reading them, checked, and writing waveforms."""

import contextlib
import os
import re
import struct
import wave
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from common.errors import InputError, naming, shown
from common.files import reading, replacing
from common.odd_audio import BLOCK, file_name, mended
from common.resampling import resample, resampled_length, source_range

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
LARGEST_SAMPLE = 8.0  # louder than any recording made too loud, and than noise; floats scaled as 16-bit integers go up to 32768
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's number for a FLAC file whose encoder wrote to a pipe
MOST_DATA = 0x7FFFF000  # bytes of samples; more in a header stand for an unknown length
# What libsndfile notes of a file (WAV, RF64, AIFF, AU, CAF) whose samples are not as many as its header says.
OTHER_LENGTH = re.compile(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)|frame count (\d+) does not match .* of (\d+)\.")
LOWEST_RATE = 1000  # Hz; a few kilobytes that say 1 Hz would be hours
MOST_OFFSET = 0.02  # mean of the samples; that of speech is below .001
LEAST_OF_A_MIX = 0.3  # power of averaged channels, as a share of theirs: .5 where they have nothing in common
MOST_CANCELLED = 0.1  # of the power is in blocks where the mix has less
INTEGER_SUBTYPES = ("PCM_", "ULAW", "ALAW", "ALAC_")  # these hold neither NaN nor samples beyond [-1, 1]
INEXACT_SUBTYPES = ("MPEG_",)  # after a seek, their decoder gives other samples


class Conversions(NamedTuple):
    """What may be done to a recording that is not as wanted, instead of refusing it.

    Args:
        mix_to_mono: average its channels.
        resample: convert its sample rate (`common.resampling`).
    """

    mix_to_mono: bool = False
    resample: bool = False


NO_CONVERSIONS = Conversions()


class _SoundFile(soundfile.SoundFile):
    """A file that is read onwards only: libsndfile cannot seek in a FLAC file of unknown or wrong length."""

    def __init__(self, path, to_the_end=True):
        file, self.fewest = mended(path, to_the_end)
        super().__init__(file_name(path) if file is None else file)

    def seekable(self):
        return False

    def blocks_until(self, n_samples):
        """Yields `[T, channels]` float32, until there are `n_samples` or the file ends."""
        while n_samples > 0 and len(block := self.read(min(BLOCK, n_samples), dtype="float32", always_2d=True)):
            n_samples -= len(block)
            yield block


@contextlib.contextmanager
def _quiet(path):
    """Keeps away what libmpg123 itself writes to standard error about an mp3, lines that name no file."""
    if not os.fspath(path).lower().endswith(".mp3"):
        yield
        return
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_header(file, path, sample_rate, conversions):
    if file.samplerate != sample_rate and not conversions.resample:
        raise InputError(
            f"{path}: sample rate is {file.samplerate} Hz (expected: {sample_rate} Hz; --resample, or data.resample in a configuration, "
            "converts it)"
        )
    if file.samplerate < LOWEST_RATE:
        raise InputError(f"{path}: sample rate is {file.samplerate} Hz (expected: {LOWEST_RATE} Hz or more)")
    if file.channels != 1 and not conversions.mix_to_mono:
        raise InputError(
            f"{path}: {file.channels} channels (expected: 1; --mix_to_mono, or data.mix_to_mono in a configuration, averages them)"
        )
    if file.frames == 0:
        raise InputError(f"{path}: the recording is empty")
    if match := OTHER_LENGTH.search(file.extra_info):
        stated, found = sorted((int(number) for number in match.groups() if number), reverse=True)
        if stated < MOST_DATA:
            unit = "samples" if match[3] else "bytes of samples"
            raise InputError(f"{path}: ends after {found} {unit} (expected: {stated}, as it says; damaged?)")


def _check_samples(audio):
    """Refuses samples that no recording has: NaN, infinity, and those far beyond [-1, 1]."""
    peak = audio.abs().max().item()
    if not np.isfinite(peak):
        raise InputError("the recording holds NaN or infinity")
    if peak > LARGEST_SAMPLE:
        raise InputError(f"samples of up to {peak:g} (expected: within [-1, 1]; floats scaled as integers?)")


def as_audio(audio):
    """A recording of a caller, a tensor or NumPy array `[..., T]` of floats, as a float32 tensor on the CPU.

    Raises:
        InputError: it is no such array, is empty, or has no possible samples.
    """
    if isinstance(audio, np.ndarray) and audio.dtype.kind == "f":
        audio = torch.from_numpy(np.ascontiguousarray(audio, np.float32))
    is_plain = torch.is_tensor(audio) and audio.layout == torch.strided and not (audio.is_meta or audio.is_nested)
    if not (is_plain and audio.is_floating_point()):
        raise InputError(f"the recording is {shown(audio)} (expected: a tensor or array of floats within [-1, 1])")
    if audio.numel() == 0:
        raise InputError(f"the recording has shape {list(audio.shape)} (expected: [T] or [1, T])")
    audio = audio.detach().cpu().float()
    _check_samples(audio)
    return audio


def signal_to_noise(reference, found):
    """Of a waveform to another that should be the same, in dB; tensors on any device."""
    reference, found = reference.double().cpu(), found.double().cpu()
    return 10 * torch.log10(reference.square().sum() / (reference - found).square().sum().clamp(min=1e-30)).item()


def check_audio(path, sample_rate, conversions=NO_CONVERSIONS):
    """Reads the header of a recording, and all of it where samples may be anything or the header does not tell the length.

    Args:
        sample_rate, conversions: as in `read_audio`.

    Returns:
        number of samples, and their largest magnitude (1 for recordings of integers).

    Raises:
        OSError: there is no such file.
        InputError: the file is unreadable, empty, of another sample rate, has several channels, or no possible samples.
    """
    with reading(path, "a readable audio file"), _quiet(path), _SoundFile(path, to_the_end=False) as file:
        _check_header(file, path, sample_rate, conversions)
        if file.frames < UNKNOWN_LENGTH and file.subtype.startswith(INTEGER_SUBTYPES):
            return resampled_length(file.frames, file.samplerate, sample_rate), 1.0
    audio = read_audio(path, sample_rate, conversions)
    return len(audio), audio.abs().max().item()


def read_audio(path, sample_rate, conversions=NO_CONVERSIONS, start=0, stop=None):
    """Reads a recording, or a part of it, as `[T]` float32, in [-1, 1] unless it was made too loud.

    Args:
        sample_rate: in Hz.
        conversions: what may be done to a recording of several channels or another rate.
        start, stop: the part, in samples of `sample_rate`; all of it without them.

    Raises:
        OSError, InputError: as `check_audio`; or the file ends before its header says, or before `stop`.
    """
    with reading(path, "a readable audio file"), _quiet(path), _SoundFile(path, stop is None) as file:
        _check_header(file, path, sample_rate, conversions)
        if file.samplerate == sample_rate:
            audio = _read(file, path, start, file.frames if stop is None else stop)
        else:
            audio = _read_resampled(file, path, sample_rate, start, stop)
    if len(audio) == 0:
        raise InputError(f"{path}: the recording is empty")
    with naming(path):
        _check_samples(audio)
    return audio


def unusual(path, audio, n_samples=UNKNOWN_LENGTH):
    """Lines on what is odd about samples `[T]` of a recording: louder than full scale, an offset, channels that cancel each other.

    Args:
        path: the recording.
        audio: of it, from `read_audio`.
        n_samples: so many samples of several channels are looked at, from the first on.
    """
    lines, offset = [], audio.mean().item()
    if (peak := audio.abs().max().item()) > 1:
        lines.append(f"{path}: samples of up to {peak:.3g} (expected: within [-1, 1])")
    if abs(offset) > MOST_OFFSET:
        lines.append(f"{path}: an offset of {offset:.2g}, which the mel has too (expected: a mean of 0)")
    if _channels_cancel(path, n_samples):
        lines.append(f"{path}: the channels cancel each other out, in opposite phase (expected: one of them alone)")
    return lines


def _channels_cancel(path, n_samples):
    power = cancelled = 0.0
    with reading(path, "a readable audio file"), _quiet(path), _SoundFile(path) as file:
        for block in file.blocks_until(n_samples) if file.channels > 1 else ():
            of_channels = np.square(block).mean() * len(block)
            power += of_channels
            cancelled += of_channels * (np.square(block.mean(1)).sum() < LEAST_OF_A_MIX * of_channels)
    return cancelled > MOST_CANCELLED * power


def _read(file, path, start, stop):
    """Samples `start` to `stop` of an open file; all that there are where `stop` is `UNKNOWN_LENGTH`."""
    skip = start
    if start and file.frames < UNKNOWN_LENGTH and not file.subtype.startswith(INEXACT_SUBTYPES):
        file.seek(start)
        skip = 0
    blocks = [block.mean(axis=1) for block in file.blocks_until(stop - start + skip)]
    audio = torch.from_numpy(np.concatenate(blocks)[skip:]) if blocks else torch.empty(0)
    stop = file.fewest if stop == UNKNOWN_LENGTH else stop
    if len(audio) < stop - start:
        raise InputError(f"{path}: ends after {start + len(audio)} samples (expected: {stop}; damaged, or changed meanwhile)")
    return audio


def _read_resampled(file, path, sample_rate, start, stop):
    """As `_read`, with the numbers of samples at another rate than the file's; `stop` may be None."""
    rates = file.samplerate, sample_rate
    if stop is None or file.frames == UNKNOWN_LENGTH:
        audio = _read(file, path, 0, file.frames)
        return resample(audio, *rates)[: resampled_length(len(audio), *rates)][start:stop]
    first, last, offset = source_range(start, stop, *rates)
    audio = _read(file, path, first, min(last, file.frames))
    return resample(audio, *rates)[offset : offset + stop - start]


SOFTWARE = b"LIST\x16\0\0\0INFOISFT\x09\0\0\0WaveGrad\0\0"  # a chunk that names the program that made a wav file


def is_own_wav(path):
    """Whether a file is a wav that `wav_writer` made."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(-len(SOFTWARE), os.SEEK_END)
        return file.read() == SOFTWARE
    return False


def _sign(file):
    """Adds `SOFTWARE` to a wav file; the number in its head counts what follows it."""
    file.seek(0, os.SEEK_END)
    file.write(SOFTWARE)
    size = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<L", size))


@contextlib.contextmanager
def wav_writer(path, sample_rate):
    """Writes a 16-bit wav piece by piece, atomically: yields a function that takes `[T]` in [-1, 1].

    Raises:
        OSError: it cannot be written; the error names `path`.
        InputError: it is longer than a wav file can be (4 GiB).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            with wave.open(file, "wb") as wav:
                wav.setparams((1, 2, sample_rate, 0, "NONE", None))
                yield lambda waveform: wav.writeframesraw(np.round(waveform.numpy() * 32767).astype(np.int16).tobytes())
            _sign(file)
        except struct.error:
            raise InputError(f"{path}: more than the 4 GiB that a wav file can hold (expected: a shorter mel)") from None
