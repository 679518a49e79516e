"""Audio files of which libsndfile alone reads a part, because it ends where a header says that they end.

- Ogg (Vorbis, Opus, FLAC) of several streams one after another, as `cat a.ogg b.ogg` and radio recorders make it;
- mp3 of several recordings one after another, or without the frame that says its length (Xing, Info or VBRI);
- wav whose header was never finished, as after a crash of the recorder, and wav and FLAC that go on after the stated length.
"""

import io
import os
import re
import struct
import threading

import numpy as np
import soundfile

from common.errors import InputError

BLOCK = 1 << 16
OGG_STREAM = re.compile(rb"OggS\0[\2\3\6\7]")  # its first page
OGG_HEAD = 27  # bytes of a page before the table of its segments
LONGEST_MP3_FRAME = 1500  # bytes, rounded up
# The frame that says the length is itself one of the stream: its header, a checksum or none, side information, and the name.
MP3_LENGTH = re.compile(rb"\xff[\xe2-\xff]..(?:(?:..)?(?:.{9}|.{17}|.{32})(?:Xing|Info)|.{32}VBRI)", re.DOTALL)
# What libsndfile notes of a wav file whose samples go on after their stated end; ID3 tags (334449 and 434449) may stand there.
WAV_GOES_ON = re.compile(r"data : (\d+)\n\*\*\* Unknown chunk marker \((?![34]334449)|data : (0)\nHave 0 marker")


def file_name(path):
    """What soundfile opens: it encodes names as strict UTF-8, and Linux has names that are not."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def mended(path, to_the_end):
    """A file in memory to read in place of one that libsndfile reads a part of, else None, and how many samples it has at least.

    Args:
        to_the_end: whether all of it will be read; a part of a FLAC file is read faster from the file itself.

    Raises:
        OSError: the file cannot be read.
        InputError: its parts have several sample rates or numbers of channels.
        soundfile.LibsndfileError, ValueError: a part is damaged.
    """
    with open(path, "rb") as file:
        content = file.read(BLOCK).lstrip(b"\0")  # some mp3 begin with zeros, which decoders skip
        kind = content[:4]
        if kind in (b"RIFF", b"RIFX"):
            match = WAV_GOES_ON.search(soundfile.info(file_name(path)).extra_info)
            if match is None:
                return None, 0
        is_mp3 = re.match(rb"ID3|\xff[\xe2-\xff]", content)
        if not (is_mp3 or kind in (b"RIFF", b"RIFX", b"OggS") or (kind == b"fLaC" and to_the_end)):
            return None, 0
        content += file.read()
    if kind == b"OggS":
        return _ogg(path, content), 0
    if is_mp3:
        return _mp3(path, content), 0
    if kind == b"fLaC":
        n_samples = int.from_bytes(content[21:26], "big") & (1 << 36) - 1
        unknown = bytes([content[21] & 0xF0, 0, 0, 0, 0])
        return io.BytesIO(content[:21] + unknown + content[26:]), n_samples
    size = int(match[1] or match[2]).to_bytes(4, "big" if kind == b"RIFX" else "little")
    return io.BytesIO(content.replace(b"data" + size, b"data\xff\xff\xff\xff", 1)), 0


def _ogg(path, content):
    places = [match.start() for match in OGG_STREAM.finditer(content)]
    parts = [content[start:stop] for start, stop in zip(places, [*places[1:], None])]
    for part in parts:
        page = part[part.rfind(b"OggS") :]
        table = page[OGG_HEAD : OGG_HEAD + page[OGG_HEAD - 1]] if len(page) >= OGG_HEAD else b"\xff"
        if len(page) < OGG_HEAD + len(table) + sum(table):
            raise ValueError("the last page is cut off")
    return None if len(parts) == 1 else _joined(path, [soundfile.read(io.BytesIO(part), always_2d=True) for part in parts])


def _mp3(path, content):
    """One with a length that is that of the whole is decoded as it is. Others come through a pipe, where no length can be guessed."""
    while content.startswith(b"ID3"):
        content = content[10 + sum(byte << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0))) :]
    lengths = list(MP3_LENGTH.finditer(content))
    if len(lengths) == 1 and lengths[0].start() < LONGEST_MP3_FRAME and not lengths[0][0].endswith(b"VBRI"):
        place = lengths[0].end()
        flags, _, size = struct.unpack(">3L", content[place : place + 12].ljust(12, b"\0"))
        if flags & 3 == 3 and len(content) - lengths[0].start() - size < LONGEST_MP3_FRAME:
            return io.BytesIO(content)
    return _joined(path, [_through_a_pipe(path, MP3_LENGTH.sub(lambda frame: frame[0][:-4] + bytes(4), content))])


def _through_a_pipe(path, content):
    """(samples `[T, channels]`, sample rate) of the content of a file."""
    source, sink = os.pipe()

    def feed():
        try:
            with os.fdopen(sink, "wb") as file:
                file.write(content)
        except BrokenPipeError:  # the decoder has given up
            pass

    threading.Thread(target=feed, daemon=True).start()
    with os.fdopen(source, "rb") as opened:
        with soundfile.SoundFile(opened.fileno(), closefd=False) as file:
            file.seekable = lambda: False  # it has no length to read the rest of
            blocks = []
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block)
        if rest := len(opened.read()):
            raise InputError(f"{path}: decoding stops {rest} bytes before its end (expected: one recording, or several of one sample rate)")
    return np.concatenate(blocks), file.samplerate


def _joined(path, parts):
    if len({(rate, samples.shape[1]) for samples, rate in parts}) > 1:
        raise InputError(f"{path}: joined of recordings of several sample rates or numbers of channels (expected: one)")
    file = io.BytesIO()
    soundfile.write(file, np.concatenate([samples for samples, _ in parts]), parts[0][1], "FLOAT", format="W64")
    file.seek(0)
    return file
