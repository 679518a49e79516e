"""What is in a filelist is read exactly, and what cannot be used is refused by name before anything is done."""

import os

import numpy as np
import pytest
import soundfile
import torch

from common.audio import Conversions, read_audio
from common.errors import InputError
from datasets import Recordings, read_filelist
from model.mel import LogMelSpectrogram


def write_list(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_paths_are_relative_to_the_filelist_or_absolute(tmp_path):
    filelist = write_list(tmp_path / "list.txt", "a b.wav", "", "  sub/ü.flac  ", "/c.wav")
    assert [str(path) for path in read_filelist(filelist)] == [f"{tmp_path}/a b.wav", f"{tmp_path}/sub/ü.flac", "/c.wav"]


@pytest.fixture
def ljspeech(tmp_path):
    """A folder as LJSpeech unpacks: `metadata.csv` and `wavs`."""
    folder = tmp_path / "LJSpeech-1.1"
    (folder / "wavs").mkdir(parents=True)
    for name in ("LJ001-0001", "LJ001-0002"):
        soundfile.write(folder / "wavs" / f"{name}.wav", np.zeros(8), 8000)
    write_list(folder / "metadata.csv", 'LJ001-0001|Printing, in "the" only sense|Printing', "LJ001-0002|in being|in being")
    return folder


def test_ljspeechs_own_list(ljspeech):
    wanted = [ljspeech / "wavs" / "LJ001-0001.wav", ljspeech / "wavs" / "LJ001-0002.wav"]
    assert read_filelist(ljspeech / "metadata.csv") == wanted


def test_lists_with_text_behind_a_bar(ljspeech):
    filelist = write_list(ljspeech / "list.txt", "wavs/LJ001-0001.wav|text | more", "/x.wav|3|text", "LJ009-0001|none")
    names = ["wavs/LJ001-0001.wav", "/x.wav", "LJ009-0001"]
    assert read_filelist(filelist) == [ljspeech / name for name in names]
    with pytest.raises(InputError, match="list.txt: line 2 names no file"):
        read_filelist(write_list(ljspeech / "list.txt", "a.wav|b", "|text"))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "list.txt").write_bytes("a.wav\r\nb.wav\r\n".encode("utf-8-sig"))
    assert [path.name for path in read_filelist(tmp_path / "list.txt")] == ["a.wav", "b.wav"]


def test_a_folder_is_a_list_of_its_recordings(ljspeech):
    np.save(ljspeech / "a.npy", np.zeros((2, 2)))
    (ljspeech / "B.WAV").touch()
    wavs = [ljspeech / "wavs" / "LJ001-0001.wav", ljspeech / "wavs" / "LJ001-0002.wav"]
    assert read_filelist(ljspeech) == [ljspeech / "B.WAV", *wavs]
    assert read_filelist(ljspeech, {".npy"}) == [ljspeech / "a.npy"]
    with pytest.raises(InputError, match="LJSpeech-1.1: the folder holds no files to read .expected: .pt"):
        read_filelist(ljspeech, {".pt"})


@pytest.mark.parametrize("content, words", [(b"", "empty"), (b"\n \n", "empty"), (b"\xff\xfe\x00", "not a text file")])
def test_a_filelist_of_nothing_is_refused(tmp_path, content, words):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"list.txt.*{words}"):
        read_filelist(tmp_path / "list.txt")


@pytest.mark.parametrize(
    "name, make, words",
    [
        ("rate.wav", lambda path, write: write(path, sample_rate=16000), "16000 Hz.*8000 Hz"),
        ("stereo.wav", lambda path, write: write(path, channels=2), "2 channels"),
        ("text.wav", lambda path, write: path.write_text("not audio"), "not a readable audio file"),
        ("empty.wav", lambda path, write: soundfile.write(path, np.zeros(0), 8000), "empty"),
        ("short.wav", lambda path, write: soundfile.write(path, np.zeros(50), 8000), "50 samples are too short"),
    ],
)
def test_unusable_recordings_are_refused_at_the_start(tmp_path, tiny_config, write_recording, name, make, words):
    write_recording(tmp_path / "good.wav")
    make(tmp_path / name, write_recording)
    filelist = write_list(tmp_path / "list.txt", "good.wav", name)
    with pytest.raises(InputError, match=f"{name}: .*{words}"):
        Recordings(filelist, tiny_config.mel)


def test_a_missing_recording_is_refused_at_the_start(tmp_path, tiny_config):
    with pytest.raises(FileNotFoundError) as error:
        Recordings(write_list(tmp_path / "list.txt", "none.wav"), tiny_config.mel)
    assert error.value.filename.endswith("none.wav")


@pytest.fixture
def recordings(tmp_path, tiny_config, write_recording):
    write_recording(tmp_path / "long.wav", seconds=0.5017)
    write_recording(tmp_path / "short.wav", seconds=0.1)
    return Recordings(write_list(tmp_path / "list.txt", "long.wav", "short.wav"), tiny_config.mel)


def test_whole_recordings_are_cut_to_whole_frames(recordings):
    assert [len(audio) for audio in recordings] == [4000, 800]


def test_segments_lie_on_frames_and_every_one_can_be_drawn(recordings, tiny_config):
    whole, context = recordings[0], LogMelSpectrogram(tiny_config.mel).context
    generator, starts = torch.Generator().manual_seed(0), set()
    for _ in range(2000):
        segment = recordings.segment(0, 60, context, generator)[0][context[0] : -context[1]]
        matches = [start for start in range(41) if torch.equal(segment, whole[start * 40 : start * 40 + 2400])]
        assert len(matches) == 1
        starts.update(matches)
    assert starts == set(range(41))


def test_a_recording_shorter_than_a_segment_is_followed_by_silence(recordings):
    segment, _ = recordings.segment(1, 30, (0, 0), torch.Generator())
    assert len(segment) == 1200
    assert torch.equal(segment[:800], recordings[1]) and (segment[800:] == 0).all()


def test_the_mel_of_a_segment_is_cut_from_that_of_the_recording(recordings, tiny_config):
    mel = LogMelSpectrogram(tiny_config.mel)
    whole, context = recordings[0], mel.context
    segment, _ = recordings.segment(0, 12, context, torch.Generator().manual_seed(3))
    inner = segment[context[0] : -context[1]]
    start = next(start for start in range(89) if torch.equal(inner, whole[start * 40 : start * 40 + 480]))
    torch.testing.assert_close(mel.from_padded(segment), mel(whole)[:, start : start + 12], atol=1e-5, rtol=0)


def test_only_line_ends_end_lines(tmp_path):
    """Fails if a next-line character, a form feed or a line separator inside a transcript begins another file's name."""
    transcript = "\x85 one\x0c two\u2028three\x1c four\x0b"
    (tmp_path / "list.txt").write_bytes(f"a.wav|{transcript}\r\nb.wav|x\rc.wav\n".encode())
    assert [path.name for path in read_filelist(tmp_path / "list.txt")] == ["a.wav", "b.wav", "c.wav"]


def test_blanks_and_bars_belong_to_a_name_if_there_is_such_a_file(tmp_path):
    for name in (" a .wav", "b|c.wav", "d|e|f.wav ", "g.wav"):
        (tmp_path / name).touch()
    filelist = write_list(tmp_path / "list.txt", " a .wav", "b|c.wav|text | more", "d|e|f.wav ", "g.wav |text", " h.wav |text")
    names = [" a .wav", "b|c.wav", "d|e|f.wav ", "g.wav", "h.wav"]
    assert [path.name for path in read_filelist(filelist)] == names


def test_names_that_are_not_utf_8(tmp_path):
    name = "голос.wav".encode("cp1251")
    (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / "list.txt").write_bytes(name + b"|text\n")
    assert os.fsencode(read_filelist(tmp_path / "list.txt")[0]).endswith(name)


def test_ljspeechs_list_of_files_with_other_suffixes(tmp_path):
    for name in ("a.WAV", "wavs/b.FLAC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read_filelist(write_list(tmp_path / "metadata.csv", "a|text", "b|text")) == [tmp_path / "a.WAV", tmp_path / "wavs" / "b.FLAC"]


def test_a_single_file_is_a_list_of_it(tmp_path):
    (tmp_path / "a.WAV").touch()
    assert read_filelist(tmp_path / "a.WAV") == [tmp_path / "a.WAV"]
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\0")
    with pytest.raises(InputError, match="a.npy: not a text file"):
        read_filelist(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["list.txt", "a.wav"])
def test_pipes_and_devices_are_no_files(tmp_path, tiny_config, name):
    """Fails if a read of them is waited for."""
    os.mkfifo(tmp_path / name)
    filelist = tmp_path / "list.txt"
    if name != "list.txt":
        write_list(filelist, name)
    with pytest.raises(InputError, match=f"{name}: a pipe, a device or a socket .expected: a regular file"):
        Recordings(filelist, tiny_config.mel)
    with pytest.raises(InputError, match="/dev/zero: a pipe, a device"):
        Recordings(write_list(tmp_path / "zero.txt", "/dev/zero"), tiny_config.mel)


def test_what_is_unusual_about_recordings_is_said_and_what_is_impossible_refused(tmp_path, tiny_config):
    """At the start, so that no training gives up hours later without a name."""
    for name, peak in [("a.wav", 1.5), ("b.wav", 1.2), ("c.wav", 1.0)]:
        soundfile.write(tmp_path / name, peak * np.resize([1, -1], 400), 8000, "FLOAT")
    [line] = Recordings(tmp_path, tiny_config.mel).warnings()
    assert "2 recordings exceed [-1, 1], most of all" in line and "a.wav, with 1.5" in line
    soundfile.write(tmp_path / "a.wav", np.resize([0.5, -0.4], 400), 8000)
    soundfile.write(tmp_path / "b.wav", np.resize([[0.5, -0.5], [-0.4, 0.4]], (400, 2)), 8000)
    [line] = Recordings(tmp_path, tiny_config.mel, Conversions(mix_to_mono=True)).warnings()
    assert line.startswith("2 of 3 recordings that were looked at: ") and "a.wav: an offset of 0.05" in line
    soundfile.write(tmp_path / "d.wav", np.array([0.0] * 399 + [np.nan]), 8000, "FLOAT")
    with pytest.raises(InputError, match="d.wav: the recording holds NaN"):
        Recordings(tmp_path, tiny_config.mel, Conversions(mix_to_mono=True))


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("seconds", [0.02, 0.06, 0.5])
def test_a_segment_is_what_the_whole_recording_has_there(tmp_path, tiny_config, write_recording, pad_mode, seconds):
    """Fails if reading no more than the segment changes a sample, at the ends too."""
    mel_config = tiny_config.mel.model_copy(update={"pad_mode": pad_mode})
    write_recording(tmp_path / "a.flac", seconds=seconds)
    recordings, context, length = Recordings(tmp_path, mel_config), (70, 50), 10 * 40
    whole = recordings[0].numpy()
    padded = np.pad(np.pad(whole, (0, max(length - len(whole), 0))), context, mode=pad_mode)
    for seed in range(40):
        segment = recordings.segment(0, 10, context, torch.Generator().manual_seed(seed))[0].numpy()
        frames = (max(len(whole), length) - length) // 40 + 1
        start = 40 * int(torch.randint(frames, (1,), generator=torch.Generator().manual_seed(seed)))
        assert np.array_equal(segment, padded[start : start + 70 + length + 50])


def test_a_segment_reads_no_more_than_itself(tmp_path, tiny_config, write_recording, monkeypatch):
    import datasets

    write_recording(tmp_path / "a.wav", seconds=3)
    recordings, read = Recordings(tmp_path, tiny_config.mel), []
    monkeypatch.setattr(datasets, "read_audio", lambda *arguments: read.append(read_audio(*arguments)) or read[-1])
    recordings.segment(0, 12, (60, 60), torch.Generator().manual_seed(0))
    assert [len(audio) for audio in read] == [60 + 12 * 40 + 60]
