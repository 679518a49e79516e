"""Recordings are read exactly or refused by name; waveforms are written whole or not at all."""

import io
import os

import numpy as np
import pytest
import soundfile
import torch

from common.audio import LARGEST_SAMPLE, NO_CONVERSIONS, Conversions, check_audio, is_own_wav, read_audio, unusual, wav_writer
from common.errors import InputError
from tests.conftest import with_flac_length


def is_refused(path, words, conversions=NO_CONVERSIONS, sample_rate=8000, readers=(read_audio, check_audio)):
    for read in readers:
        with pytest.raises(InputError, match=f"{path.name}: {words}") as error:
            read(path, sample_rate, conversions)
        assert "\n" not in str(error.value)
    return True


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_integers_are_read_exactly(tmp_path, suffix):
    pcm = np.arange(-400, 400, dtype=np.int16) * 80
    path = tmp_path / os.fsdecode("голос".encode("cp1251") + suffix.encode())  # a name that is not UTF-8
    soundfile.write(os.fsencode(path), pcm, 8000)
    audio = read_audio(path, 8000)
    assert audio.dtype == torch.float32
    assert torch.equal(audio, torch.from_numpy(pcm).float() / 32768)
    assert torch.equal(read_audio(path, 8000, start=100, stop=107), audio[100:107])
    assert check_audio(path, 8000) == (800, 1.0)


def test_stereo_is_mixed_only_on_request(tmp_path):
    stereo = np.stack([np.full(800, 0.5), np.full(800, 0.25)], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 8000, "FLOAT")
    assert is_refused(tmp_path / "s.wav", "2 channels .*--mix_to_mono, or data.mix_to_mono")
    assert torch.equal(read_audio(tmp_path / "s.wav", 8000, Conversions(mix_to_mono=True)), torch.full((800,), 0.375))


@pytest.mark.parametrize(
    "left, right, offset, words",
    [
        (0.3, 0.3, 0.0, None),
        (0.3, 0.0, 0.0, None),
        (0.3, -0.29, 0.0, "the channels cancel each other out"),
        (0.3, -0.15, 0.0, "the channels cancel each other out"),
        (0.3, np.repeat([0.3, -0.3], 100_000), 0.0, "the channels cancel each other out"),
        (1.5, 1.4, 0.0, "samples of up to 1.45"),
        (0.3, 0.3, 0.2, "an offset of 0.2"),
    ],
)
def test_what_is_unusual_about_a_recording(tmp_path, left, right, offset, words):
    """Fails if channels in opposite phase, all the time or half of it, vanish without a word, or an offset becomes the loudest of a mel."""
    wave = np.sin(np.arange(200_000) / 9)
    soundfile.write(tmp_path / "a.wav", np.stack([left * wave, right * wave], 1) + offset, 8000, "FLOAT")
    lines = unusual(tmp_path / "a.wav", read_audio(tmp_path / "a.wav", 8000, Conversions(mix_to_mono=True)))
    assert len(lines) == (words is not None) and all(f"a.wav: {words}" in line for line in lines)


@pytest.mark.parametrize(
    "samples, sample_rate, words",
    [
        ([0.1, np.nan, 0.2], 8000, "the recording holds NaN or infinity"),
        ([0.1, -np.inf, 0.2], 8000, "the recording holds NaN or infinity"),
        ([0.1, 12000.0, -300.0], 8000, "samples of up to 12000 .*scaled as integers"),
        (np.zeros(1000), 1, "sample rate is 1 Hz .expected: 1000 Hz or more"),  # a few kilobytes would become gigabytes
    ],
)
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_what_no_recording_has_is_refused(tmp_path, samples, sample_rate, words, subtype):
    """Fails if silence, or a training on NaN, is what comes of them."""
    soundfile.write(tmp_path / "a.wav", np.array(samples), sample_rate, subtype)
    assert is_refused(tmp_path / "a.wav", words, Conversions(resample=True))


def test_a_recording_made_too_loud_is_read_as_it_is(tmp_path):
    loud = 0.9 * LARGEST_SAMPLE
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 1.5, -loud]), 8000, "FLOAT")
    assert read_audio(tmp_path / "a.wav", 8000).tolist() == pytest.approx([0.0, 1.5, -loud])
    assert check_audio(tmp_path / "a.wav", 8000) == (3, pytest.approx(loud))


@pytest.mark.parametrize("stated, n_checked", [(0, 200_000), (100_000, 100_000)])
def test_flac_is_read_until_it_ends(tmp_path, stated, n_checked):
    """Fails if the stated length is believed: 0 from encoders that write into a pipe, or half. Its header alone does not tell."""
    pcm = np.random.default_rng(0).integers(-9000, 9000, 200_000).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", pcm, 8000)
    with_flac_length(tmp_path / "a.flac", stated)
    assert check_audio(tmp_path / "a.flac", 8000)[0] == n_checked
    audio = torch.from_numpy(pcm).float() / 32768
    assert torch.equal(read_audio(tmp_path / "a.flac", 8000), audio)
    assert torch.equal(read_audio(tmp_path / "a.flac", 8000, start=90_000, stop=90_100), audio[90_000:90_100])


@pytest.mark.parametrize("length", [900, 2**35])
def test_flac_that_is_shorter_than_it_says_is_refused(tmp_path, length):
    soundfile.write(tmp_path / "a.flac", np.zeros(800), 8000)
    with_flac_length(tmp_path / "a.flac", length)
    assert is_refused(tmp_path / "a.flac", f"ends after 800 samples .expected: {length}", readers=[read_audio])


@pytest.mark.parametrize("first", [0.25, 0.0])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize(
    "riff, data", [(2036, 0x7FFFF024), (2036, 0xFFFFFFFF), (0, 0), (36, 0), (0xFFFFFFFF, 0), (1036, 1000), (2036, 1000)]
)
def test_wav_is_read_until_it_ends(tmp_path, riff, data, endian, first):
    """Fails if a placeholder, of a pipe or of a recorder that crashed, or a header that states half, costs samples without a word."""
    samples = np.full(1000, 0.25)
    samples[:400] = first
    soundfile.write(tmp_path / "a.wav", samples, 8000, "PCM_16", endian)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    order = endian.lower()
    content[4:8], content[40:44] = riff.to_bytes(4, order), data.to_bytes(4, order)
    (tmp_path / "a.wav").write_bytes(content)
    assert torch.equal(read_audio(tmp_path / "a.wav", 8000), torch.from_numpy(samples).float())
    assert check_audio(tmp_path / "a.wav", 8000)[0] == 1000


@pytest.mark.parametrize("more", [b"LIST\4\0\0\0INFO", b"ID3\3" + bytes(30), bytes(512)])
def test_what_follows_the_samples_of_a_wav_is_no_sound(tmp_path, more):
    for name, samples in [("a.wav", np.full(1000, 0.25)), ("empty.wav", np.zeros(0))]:
        soundfile.write(tmp_path / name, samples, 8000)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + more)
    assert len(read_audio(tmp_path / "a.wav", 8000)) == 1000
    if more[0]:
        assert is_refused(tmp_path / "empty.wav", "the recording is empty")


@pytest.mark.parametrize("form, endian", [("WAV", "LITTLE"), ("WAV", "BIG"), *((form, "FILE") for form in ("RF64", "AIFF", "AU", "CAF"))])
def test_a_recording_that_was_cut_off_is_refused(tmp_path, form, endian):
    """Fails if it is read as a shorter one: of more than 4 GiB (RF64), of the other byte order (RIFX), or another kind named .wav."""
    soundfile.write(tmp_path / "a.wav", np.full(1000, 0.25), 8000, "PCM_16", endian, form)
    content = (tmp_path / "a.wav").read_bytes()
    assert check_audio(tmp_path / "a.wav", 8000)[0] == len(read_audio(tmp_path / "a.wav", 8000)) == 1000
    (tmp_path / "a.wav").write_bytes(content[:-1000])
    assert is_refused(tmp_path / "a.wav", r"ends after \d+ .*samples .expected: [12]00")


def test_what_is_written_is_recognised_and_does_not_wrap(tmp_path):
    """Full scale, piece by piece, under a name that is not UTF-8."""
    path = tmp_path / os.fsdecode("голос.wav".encode("cp1251"))
    with wav_writer(path, 8000) as write:
        write(torch.tensor([1.0, -1.0]))
        write(torch.tensor([0.0]))
    assert list(soundfile.read(os.fsencode(path), dtype="int16")[0]) == [32767, -32767, 0]
    info = soundfile.info(os.fsencode(path))
    assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")
    soundfile.write(tmp_path / "a.wav", np.zeros(80), 8000)
    assert [is_own_wav(one) for one in (path, tmp_path / "a.wav", tmp_path / "none.wav")] == [True, False, False]


FORMATS = {"VORBIS": "OGG", "OPUS": "OGG", "MPEG_LAYER_III": "MP3", "PCM_16": "FLAC"}


def encoded(kind, seed=0, sample_rate=24000, seconds=1):
    """The content of a file of a recording."""
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(seconds * sample_rate) / (20 + seed)).astype(np.float32)
    soundfile.write(file, samples, sample_rate, kind, format=FORMATS[kind])
    return file.getvalue()


def without_length(mp3):
    """An mp3 without its first frame, which says it."""
    return mp3[mp3.index(mp3[:2], 4) :]


MP3, VORBIS, OPUS = map(encoded, ("MPEG_LAYER_III", "VORBIS", "OPUS"))
OTHER_RATE = encoded("MPEG_LAYER_III", sample_rate=22050)
NO_LENGTH = without_length(MP3)
TAG = b"ID3\3\0\0\0\0\x10\0" + bytes(2048)


@pytest.mark.parametrize("name, subtype", [("a.OGG", "VORBIS"), ("a.opus", "OPUS"), ("a.mp3", "MPEG_LAYER_III")])
def test_a_part_of_a_compressed_recording_is_that_of_the_whole(tmp_path, name, subtype):
    """Fails if a seek gives other samples, as in MP3 it does."""
    audio = 0.1 * np.random.default_rng(0).standard_normal(48000 * 3)
    soundfile.write(tmp_path / name, audio, 48000, subtype, format=FORMATS[subtype])
    whole = read_audio(tmp_path / name, 48000)
    assert check_audio(tmp_path / name, 48000) == (len(whole), whole.abs().max().item())
    assert torch.equal(read_audio(tmp_path / name, 48000, start=70_001, stop=80_000), whole[70_001:80_000])


@pytest.mark.parametrize(
    "name, content, seconds",
    [
        ("a.ogg", VORBIS, 1),
        ("a.ogg", VORBIS + encoded("VORBIS", 5), 2),
        ("a.opus", OPUS + OPUS + OPUS, 3),
        ("a.ogg", VORBIS + OPUS, 2),
        ("a.ogg", VORBIS + b"xyz" * 1000, 1),
        ("a.ogg", VORBIS + bytes(100) + VORBIS, 2),
        ("a.mp3", MP3, 1),
        ("a.mp3", TAG + MP3 + b"TAG" + bytes(125), 1),
        ("a.mp3", MP3 + encoded("MPEG_LAYER_III", 5), 2.16),  # with the encoder's delays, which the first frames say too
        ("a.mp3", NO_LENGTH, 1.056),
        ("a.mp3", NO_LENGTH + MP3, 2.136),
        ("a.mp3", MP3 + NO_LENGTH, 2.136),
        ("a.mp3", TAG + MP3 + TAG + MP3, 2.16),
        ("a.mp3", MP3 + b"TAG" + bytes(125) + NO_LENGTH, 2.136),
        ("a.mp3", bytes(50) + MP3 + MP3, 2.16),
        ("a.mp3", bytes(50) + MP3, 1),
    ],
)
def test_recordings_are_read_until_they_end(tmp_path, name, content, seconds):
    """Fails if what a header says is read alone: libsndfile then loses what follows it, without a word."""
    (tmp_path / name).write_bytes(content)
    audio = read_audio(tmp_path / name, 24000)
    assert len(audio) == 24000 * seconds
    assert check_audio(tmp_path / name, 24000)[0] == len(audio)
    assert torch.equal(read_audio(tmp_path / name, 24000, start=9000, stop=12000), audio[9000:12000])
    assert audio[-3000:].abs().max() > 0.2


def flipped(content):
    """With another bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


FLAC = encoded("PCM_16")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.ogg", flipped(VORBIS), "not a readable audio file, or a damaged one"),
        ("a.ogg", VORBIS[:-100], "not a readable audio file, or a damaged one"),
        ("a.ogg", VORBIS + VORBIS[:-100], "not a readable audio file, or a damaged one"),
        ("a.ogg", VORBIS + encoded("VORBIS", sample_rate=22050), "joined of recordings of several sample rates"),
        ("a.ogg", flipped(encoded("VORBIS", seconds=20)), "ends after .* samples .expected: 480000"),
        ("a.flac", 2 * FLAC, "not a readable audio file, or a damaged one"),
        ("a.mp3", MP3[: len(MP3) // 2], "ends after 12143 samples"),
        ("a.mp3", MP3 + OTHER_RATE, "decoding stops 2156 bytes before its end .expected: .* of one sample rate"),
        ("a.mp3", NO_LENGTH + without_length(OTHER_RATE), "decoding stops 1948 bytes before its end"),
    ],
)
def test_what_cannot_be_read_to_its_end_is_refused(tmp_path, capfd, name, content, words):
    """Fails if the rest is lost without a word, or the decoder's own lines, which name no file, are printed."""
    (tmp_path / name).write_bytes(content)
    assert is_refused(tmp_path / name, words, sample_rate=24000, readers=[read_audio] if name == "a.flac" else (read_audio, check_audio))
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"
