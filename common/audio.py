"""Recordings: reading them, checked, and writing waveforms."""

import contextlib
import os
import struct
import wave

import numpy as np
import soundfile
import torch

from common.errors import InputError
from common.files import reading, replacing

AUDIO_SUFFIXES = {".wav", ".flac"}
LARGEST_SAMPLE = 4.0  # louder than any recording made too loud; floats scaled as 16-bit integers go up to 32768
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's number for a FLAC file whose encoder wrote to a pipe
MOST_DATA = 0x7FFFF000  # bytes of samples; more in the head of a wav file stand for an unknown length
BLOCK = 1 << 16
INTEGER_SUBTYPES = ("PCM_", "ULAW", "ALAW", "ALAC_")  # these hold neither NaN nor samples beyond [-1, 1]


class _SoundFile(soundfile.SoundFile):
    """A file that is read onwards only: libsndfile cannot seek in a FLAC file of unknown or wrong length."""

    def __init__(self, path):
        # soundfile encodes names as strict UTF-8; Linux has names that are not.
        super().__init__(os.fsencode(path) if os.name == "posix" else str(path))

    def seekable(self):
        return False

    def blocks_until(self, n_samples):
        """Yields `[T, channels]` float32, until there are `n_samples` or the file ends."""
        while n_samples > 0 and len(block := self.read(min(BLOCK, n_samples), dtype="float32", always_2d=True)):
            n_samples -= len(block)
            yield block


def _check_header(file, path, sample_rate, mix_to_mono):
    if file.samplerate != sample_rate:
        raise InputError(f"{path}: sample rate is {file.samplerate} Hz (wanted: {sample_rate} Hz)")
    if file.channels != 1 and not mix_to_mono:
        raise InputError(
            f"{path}: {file.channels} channels (wanted: 1; --mix_to_mono, or data.mix_to_mono in a configuration, averages them)"
        )
    if file.frames == 0:
        raise InputError(f"{path}: the recording is empty")


def _check_data_chunk(path):
    """Refuses a wav file that ends before its data do, which libsndfile reads as a shorter one."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return
        end = os.fstat(file.fileno()).st_size
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                # Encoders that write into a pipe leave the largest number, or one near half of it.
                if size < MOST_DATA and file.tell() + size > end:
                    raise InputError(f"{path}: ends after {end - file.tell()} bytes of samples (wanted: {size}; damaged?)")
                return
            file.seek(size + size % 2, os.SEEK_CUR)


def _check_samples(audio, path):
    """Refuses samples that no recording has: NaN, infinity, and those far beyond [-1, 1]."""
    peak = audio.abs().max().item()
    if not np.isfinite(peak):
        raise InputError(f"{path}: the recording holds NaN or infinity")
    if peak > LARGEST_SAMPLE:
        raise InputError(f"{path}: samples of up to {peak:g} (wanted: within [-1, 1]; floats scaled as integers?)")


def check_audio(path, sample_rate, mix_to_mono=False):
    """Reads the header of a recording, and all of it where samples may be anything or the header does not tell the length.

    Returns:
        number of samples, and their largest magnitude (1 for recordings of integers).

    Raises:
        OSError: there is no such file.
        InputError: the file is unreadable, empty, of another sample rate, has several channels, or no possible samples.
    """
    with reading(path, "a readable audio file"), _SoundFile(path) as file:
        _check_header(file, path, sample_rate, mix_to_mono)
        _check_data_chunk(path)
        is_plain = file.frames < UNKNOWN_LENGTH and file.subtype.startswith(INTEGER_SUBTYPES)
        if is_plain:
            return file.frames, 1.0
    audio = read_audio(path, sample_rate, mix_to_mono)
    return len(audio), audio.abs().max().item()


def read_audio(path, sample_rate, mix_to_mono=False, start=0, stop=None):
    """Reads a recording, or samples `start` to `stop` of it, as `[T]` float32, in [-1, 1] unless it was made too loud.

    Raises:
        OSError, InputError: as `check_audio`; or the file ends before its header says, or before `stop`.
    """
    with reading(path, "a readable audio file"), _SoundFile(path) as file:
        _check_header(file, path, sample_rate, mix_to_mono)
        if stop is None:
            _check_data_chunk(path)
        end = file.frames if stop is None else stop
        if start and file.frames < UNKNOWN_LENGTH:
            file.seek(start)
            skip = 0
        else:
            skip = start
        blocks = [block.mean(axis=1) for block in file.blocks_until(end - start + skip)]
        audio = torch.from_numpy(np.concatenate(blocks)[skip:]) if blocks else torch.empty(0)
        if len(audio) < end - start and end < UNKNOWN_LENGTH:
            raise InputError(f"{path}: ends after {start + len(audio)} samples (wanted: {end}; damaged, or changed meanwhile)")
    if len(audio) == 0:
        raise InputError(f"{path}: the recording is empty")
    _check_samples(audio, path)
    return audio


SOFTWARE = b"LIST\x16\0\0\0INFOISFT\x09\0\0\0WaveGrad\0\0"  # a chunk that names the program that made a wav file


def is_ours(path):
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
            raise InputError(f"{path}: more than the 4 GiB that a wav file can hold (wanted: a shorter mel)") from None
