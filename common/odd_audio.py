"""Audio files of which libsndfile reads a part alone, because it ends where a header says that they end.

- Ogg (Vorbis, Opus, FLAC) of several streams one after another, as `cat a.ogg b.ogg` and radio recorders make it;
- mp3 of several recordings one after another, or without the frame that says its length (Xing, Info or VBRI);
- wav whose header was never finished, as after a crash of the recorder: its length is still the placeholder 0.
"""

import functools
import io
import os
import re
import threading
import zlib

import numpy as np
import soundfile

from common.errors import InputError

BLOCK = 1 << 16
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits the other way round
OGG_HEAD = 27  # bytes of a page before the table of its segments
LONGEST_MP3_FRAME = 1500  # bytes, rounded up
MP3_FRAME = rb"\xff[\xe2-\xff]"
# The frame that says the length is itself one of the stream: its header, a checksum or none, side information, and the name.
MP3_LENGTH = re.compile(MP3_FRAME + rb"..(?:(?:..)?(?:.{9}|.{17}|.{32})(?:Xing|Info)|.{32}VBRI)", re.DOTALL)


def mended(path):
    """What to read in place of a file, if it is one of these: a file in memory with all of its samples; else None.

    Raises:
        OSError: the file cannot be read.
        InputError: its parts have several sample rates or numbers of channels.
        soundfile.LibsndfileError, ValueError: a part is damaged.
    """
    about = os.stat(path)
    if not _is_odd(os.fspath(path), about.st_size, about.st_mtime_ns):
        return None
    content = _content(path)
    if content.startswith(b"RIFF"):
        return io.BytesIO(_finished_wav(content))
    parts = [_decoded(part) for part in _parts(content)]
    if len({(rate, samples.shape[1]) for samples, rate in parts}) > 1:
        raise InputError(f"{path}: joined of recordings of several sample rates or numbers of channels (expected: one)")
    file = io.BytesIO()
    soundfile.write(file, np.concatenate([samples for samples, _ in parts]), parts[0][1], "FLOAT", format="W64")
    file.seek(0)
    return file


def _content(path):
    with open(path, "rb") as file:
        return file.read().lstrip(b"\0")  # some mp3 begin with zeros, which decoders skip


@functools.lru_cache(1 << 16)
def _is_odd(path, size, changed):
    """Remembers the answer, for training reads a file often; `size` and `changed` tell it from a later one of the same name."""
    with open(path, "rb") as file:
        head = file.read(BLOCK).lstrip(b"\0")[:4]
    if head == b"RIFF":
        return size > 44 and _finished_wav(_content(path)) is not None
    if head != b"OggS" and not re.match(b"ID3|" + MP3_FRAME, head):
        return False
    parts = _parts(_content(path))
    return len(parts) > 1 or parts[0][1]


def _finished_wav(content):
    """The content of a wav file with its length, if its header says 0 samples and a wrong size of the file; else None."""
    place, is_finished = 12, int.from_bytes(content[4:8], "little") + 8 == len(content)
    while not is_finished and len(head := content[place : place + 8]) == 8:
        size, place = int.from_bytes(head[4:], "little"), place + 8
        if head[:4] == b"data":
            rest = min(len(content) - place, 0xFFFFFFFF).to_bytes(4, "little")
            return None if size or place == len(content) else content[: place - 4] + rest + content[place:]
        place += size + size % 2
    return None


def _parts(content):
    """(content, has no length) of each recording in the content of an Ogg or mp3 file."""
    if content.startswith(b"OggS"):
        places = _ogg_streams(content)
        return [(content[start:stop], False) for start, stop in zip(places, [*places[1:], None])]
    lengths = [match.start() for match in MP3_LENGTH.finditer(content)]
    if not lengths or lengths[0] - _tag_size(content) > LONGEST_MP3_FRAME:
        lengths.insert(0, None)  # a recording without that frame comes first
    parts = []
    for number, (length, stop) in enumerate(zip(lengths, [*lengths[1:], len(content)])):
        start = length if number else 0
        end = stop if length is None else min(_mp3_end(content, length), stop)
        parts.append((content[start:end], length is None))
        rest = content[end:stop]
        while size := _tag_size(rest):
            rest = rest[size:]
        if len(rest) > LONGEST_MP3_FRAME and re.match(MP3_FRAME, rest):  # a recording without that frame follows
            parts.append((rest, True))
    return parts


def _tag_size(content):
    """Bytes of the ID3 tag that content begins with; 0 if there is none."""
    if content.startswith(b"TAG"):
        return 128
    return 10 + sum(byte << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0))) if content.startswith(b"ID3") else 0


def _ogg_streams(content):
    """Where the streams of an Ogg file begin that follow one another; those that begin together belong together.

    Raises:
        ValueError: a page is damaged or cut off, or pages follow something else. A decoder would leave these out.
    """
    places, place, was_first = [], 0, False
    while content[place : place + 4] == b"OggS" and place + OGG_HEAD <= len(content):
        is_first = bool(content[place + 5] & 2)
        if is_first and not was_first:
            places.append(place)
        table = content[place + OGG_HEAD : place + OGG_HEAD + content[place + OGG_HEAD - 1]]
        page = content[place : place + OGG_HEAD + len(table) + sum(table)]
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise ValueError("checksum")
        was_first, place = is_first, place + len(page)
    if content.find(b"OggS", place) >= 0:
        raise ValueError("pages apart")
    return places


def _ogg_checksum(page):
    """The checksum of an Ogg page whose field for it is 0: CRC-32 from the highest bit on, begun with 0 and not inverted."""
    remainder = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{remainder:032b}"[::-1], 2)


def _mp3_end(content, length):
    """Where the recording ends whose Xing or Info frame begins at `length`; the end of the content where that does not say it."""
    place = MP3_LENGTH.match(content, length).end()
    flags = int.from_bytes(content[place : place + 4], "big")
    if content[place - 4 : place] == b"VBRI" or not flags & 2:
        return len(content)
    bytes_at = place + (8 if flags & 1 else 4)
    return length + int.from_bytes(content[bytes_at : bytes_at + 4], "big")


def _decoded(part):
    """(samples `[T, channels]`, sample rate) of a recording; one without a length comes through a pipe, where it cannot be guessed."""
    content, has_no_length = part
    if not has_no_length:
        return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    source, sink = os.pipe()

    def feed():
        try:
            with os.fdopen(sink, "wb") as file:
                file.write(content)
        except BrokenPipeError:  # the decoder has given up
            pass

    threading.Thread(target=feed, daemon=True).start()
    with os.fdopen(source, "rb") as opened, soundfile.SoundFile(opened.fileno(), closefd=False) as file:
        file.seekable = lambda: False  # it has no length to read the rest of
        blocks = []
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            blocks.append(block)
        return np.concatenate(blocks), file.samplerate
