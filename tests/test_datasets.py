"""What is in a filelist is read exactly, and what cannot be used is refused by name before anything is done."""

import os

import numpy as np
import pytest
import soundfile
import torch

import datasets
from common.audio import Conversions, read_audio
from common.errors import InputError
from datasets import Recordings, read_filelist

THERE = ["wavs/LJ001-0001.wav", "wavs/LJ001-0002.FLAC", "B.WAV", " a .wav", "b|c.wav", "d|e|f.wav ", "g.wav", "a.npy"]


@pytest.fixture
def folder(tmp_path):
    """A folder as LJSpeech unpacks, with some files of odd names."""
    for name in THERE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\0")
    return tmp_path


def write_list(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content, names",
    [
        ("a b.wav\n\n  sub/ü.flac  \n/c.wav\n", ["a b.wav", "sub/ü.flac", "/c.wav"]),
        ('LJ001-0001|Printing, in "the" only sense|Printing\nLJ001-0002|in being|in being\n', THERE[:2]),
        ("wavs/LJ001-0001.wav|text | more\n/x.wav|3|text\nLJ009-0001|none\n", [THERE[0], "/x.wav", "LJ009-0001"]),
        ("\ufeffa.wav\r\nb.wav\r\n", ["a.wav", "b.wav"]),
        # A next-line character, a form feed or a line separator inside a transcript begins no line.
        ("a.wav|\x85 one\x0c two\u2028three\x1c four\x0b\r\nb.wav|x\rc.wav\n", ["a.wav", "b.wav", "c.wav"]),
        # Blanks and bars belong to a name if there is such a file.
        (" a .wav\nb|c.wav|text | more\nd|e|f.wav \ng.wav |text\n h.wav |text\n", [*THERE[3:7], "h.wav"]),
    ],
)
def test_a_filelist_in_any_layout(folder, content, names):
    (folder / "list.txt").write_bytes(content.encode())
    assert read_filelist(folder / "list.txt") == [folder / name for name in names]


@pytest.mark.parametrize(
    "content, words", [("", "empty"), ("\n \n", "empty"), ("a\0", "not a text file"), ("a|b\n|c", "line 2 names no file")]
)
def test_a_filelist_of_nothing_is_refused(tmp_path, content, words):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(InputError, match=f"list.txt: .*{words}"):
        read_filelist(tmp_path / "list.txt")


def test_names_that_are_not_utf_8(tmp_path):
    name = "голос.wav".encode("cp1251")
    (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / "list.txt").write_bytes(name + b"|text\n")
    assert os.fsencode(read_filelist(tmp_path / "list.txt")[0]).endswith(name)


def test_a_folder_or_a_file_is_a_list_too(folder):
    assert read_filelist(folder) == sorted(folder / name for name in THERE if name not in ("a.npy", "d|e|f.wav "))
    assert read_filelist(folder, {".npy"}) == [folder / "a.npy"]
    assert read_filelist(folder / "B.WAV") == [folder / "B.WAV"]
    with pytest.raises(InputError, match="the folder holds no files to read .expected: .pt"):
        read_filelist(folder, {".pt"})
    with pytest.raises(InputError, match="a.npy: not a text file"):
        read_filelist(folder / "a.npy")


@pytest.mark.parametrize("name", ["list.txt", "a.wav", "/dev/zero"])
def test_pipes_and_devices_are_no_files(tmp_path, tiny_config, name):
    """Fails if a read of them is waited for."""
    if name != "/dev/zero":
        os.mkfifo(tmp_path / name)
    filelist = tmp_path / "list.txt" if name == "list.txt" else write_list(tmp_path / "list.txt", name)
    with pytest.raises(InputError, match=f"{name}: a pipe, a device or a socket .expected: a regular file"):
        Recordings(filelist, tiny_config.mel)


@pytest.mark.parametrize(
    "name, make, words",
    [
        ("rate.wav", lambda path, write: write(path, sample_rate=16000), "16000 Hz.*8000 Hz"),
        ("stereo.wav", lambda path, write: write(path, channels=2), "2 channels"),
        ("text.wav", lambda path, write: path.write_text("not audio"), "not a readable audio file"),
        ("empty.wav", lambda path, write: soundfile.write(path, np.zeros(0), 8000), "empty"),
        ("short.wav", lambda path, write: soundfile.write(path, np.zeros(50), 8000), "50 samples are too short"),
        ("none.wav", lambda path, write: None, "No such file"),
        ("nan.wav", lambda path, write: soundfile.write(path, np.array([0.0] * 399 + [np.nan]), 8000, "FLOAT"), "holds NaN"),
    ],
)
def test_unusable_recordings_are_refused_at_the_start(tmp_path, tiny_config, write_recording, name, make, words):
    """So that no training gives up hours later."""
    write_recording(tmp_path / "good.wav")
    make(tmp_path / name, write_recording)
    with pytest.raises((InputError, FileNotFoundError)) as error:
        Recordings(write_list(tmp_path / "list.txt", "good.wav", name), tiny_config.mel)
    assert error.match(words) and name in str(error.value)


def test_what_is_unusual_about_recordings_is_said(tmp_path, tiny_config):
    for name, peak in [("a.wav", 1.5), ("b.wav", 1.2), ("c.wav", 1.0)]:
        soundfile.write(tmp_path / name, peak * np.resize([1, -1], 400), 8000, "FLOAT")
    [line] = Recordings(tmp_path, tiny_config.mel).warnings()
    assert "2 recordings exceed [-1, 1], most of all" in line and "a.wav, with 1.5" in line
    soundfile.write(tmp_path / "a.wav", np.resize([0.5, -0.4], 400), 8000)
    soundfile.write(tmp_path / "b.wav", np.resize([[0.5, -0.5], [-0.4, 0.4]], (400, 2)), 8000)
    [line] = Recordings(tmp_path, tiny_config.mel, Conversions(mix_to_mono=True)).warnings()
    assert line.startswith("2 of 3 recordings that were looked at: ") and "a.wav: an offset of 0.05" in line


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("seconds", [0.02, 0.0617, 0.5])
def test_a_segment_is_what_the_whole_recording_has_there(tmp_path, tiny_config, write_recording, monkeypatch, pad_mode, seconds):
    """Fails if reading no more than the segment changes a sample, at the ends too, or if a frame can never be its first."""
    mel_config = tiny_config.mel.model_copy(update={"pad_mode": pad_mode})
    write_recording(tmp_path / "a.flac", seconds=seconds)
    recordings, context, length = Recordings(tmp_path, mel_config), (70, 50), 10 * 40
    whole = recordings[0].numpy()
    assert len(whole) == int(seconds * 8000) // 40 * 40  # whole frames
    padded = np.pad(np.pad(whole, (0, max(length - len(whole), 0))), context, mode=pad_mode)
    read, starts, n_starts = [], set(), (max(len(whole), length) - length) // 40 + 1
    monkeypatch.setattr(datasets, "read_audio", lambda *arguments: read.append(read_audio(*arguments)) or read[-1])
    for seed in range(40):
        segment = recordings.segment(0, 10, context, torch.Generator().manual_seed(seed))[0].numpy()
        start = 40 * int(torch.randint(n_starts, (1,), generator=torch.Generator().manual_seed(seed)))
        assert np.array_equal(segment, padded[start : start + 70 + length + 50])
        starts.add(start)
    assert max(map(len, read)) <= 70 + length + 50 and (n_starts > 3 or len(starts) == n_starts)
