"""What is in a filelist is read exactly, and what cannot be used is refused by name before anything is done."""

import numpy as np
import pytest
import soundfile
import torch

from datasets import Recordings, read_filelist
from model.audio import read_audio
from model.errors import InputError
from model.mel import LogMelSpectrogram
from model.mel_input import read_mel


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
    with pytest.raises(InputError, match="LJSpeech-1.1: the folder holds no files to read .wanted: .pt"):
        read_filelist(ljspeech, {".pt"})


@pytest.mark.parametrize("content, words", [(b"", "empty"), (b"\n \n", "empty"), (b"\xff\xfe\x00", "not a text file")])
def test_a_filelist_of_nothing_is_refused(tmp_path, content, words):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"list.txt.*{words}"):
        read_filelist(tmp_path / "list.txt")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_audio_is_read_exactly(tmp_path, suffix):
    pcm = np.arange(-400, 400, dtype=np.int16) * 80
    soundfile.write(tmp_path / f"a{suffix}", pcm, 8000)
    audio = read_audio(tmp_path / f"a{suffix}", 8000)
    assert audio.dtype == torch.float32
    assert torch.equal(audio, torch.from_numpy(pcm).float() / 32768)


def test_stereo_is_mixed_only_on_request(tmp_path):
    stereo = np.stack([np.full(800, 0.5), np.full(800, 0.25)], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 8000, "FLOAT")
    with pytest.raises(InputError, match="s.wav: 2 channels"):
        read_audio(tmp_path / "s.wav", 8000)
    assert torch.equal(read_audio(tmp_path / "s.wav", 8000, mix_to_mono=True), torch.full((800,), 0.375))


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
        segment = recordings.segment(0, 60, context, generator)[context[0] : -context[1]]
        matches = [start for start in range(41) if torch.equal(segment, whole[start * 40 : start * 40 + 2400])]
        assert len(matches) == 1
        starts.update(matches)
    assert starts == set(range(41))


def test_a_recording_shorter_than_a_segment_is_followed_by_silence(recordings):
    segment = recordings.segment(1, 30, (0, 0), torch.Generator())
    assert len(segment) == 1200
    assert torch.equal(segment[:800], recordings[1]) and (segment[800:] == 0).all()


def test_the_mel_of_a_segment_is_cut_from_that_of_the_recording(recordings, tiny_config):
    mel = LogMelSpectrogram(tiny_config.mel)
    whole, context = recordings[0], mel.context
    segment = recordings.segment(0, 12, context, torch.Generator().manual_seed(3))
    inner = segment[context[0] : -context[1]]
    start = next(start for start in range(89) if torch.equal(inner, whole[start * 40 : start * 40 + 480]))
    torch.testing.assert_close(mel.from_padded(segment), mel(whole)[:, start : start + 12], atol=1e-5, rtol=0)


MEL = torch.randn(20, 7)


@pytest.mark.parametrize("mel", [MEL, MEL[None], MEL.double(), MEL.half().float()])
@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_mel_files(tmp_path, mel, suffix):
    path = tmp_path / f"m{suffix}"
    np.save(path, mel.numpy()) if suffix == ".npy" else torch.save(mel, path)
    read = read_mel(path, 20)
    assert read.dtype == torch.float32
    assert torch.equal(read, mel.reshape(20, 7).float())


class Anything:
    pass


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("bands.npy", lambda path: np.save(path, np.zeros((21, 7))), r"\[21, 7\].*\[20, frames\]"),
        ("turned.npy", lambda path: np.save(path, np.zeros((7, 20))), "frames along the first axis"),
        ("batch.npy", lambda path: np.save(path, np.zeros((2, 20, 7))), r"\[2, 20, 7\]"),
        ("empty.npy", lambda path: np.save(path, np.zeros((20, 0))), "no frames"),
        ("nan.npy", lambda path: np.save(path, np.full((20, 7), np.nan)), "NaN or infinity"),
        ("infinity.pt", lambda path: torch.save(torch.full((20, 7), -torch.inf), path), "NaN or infinity"),
        ("complex.npy", lambda path: np.save(path, np.zeros((20, 7), complex)), "real numbers"),
        ("words.npy", lambda path: np.save(path, np.array(["a", "b"])), "plain tensor"),
        ("objects.npy", lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True), "plain tensor"),
        ("pickle.pt", lambda path: torch.save(Anything(), path), "plain tensor"),
        ("dictionary.pt", lambda path: torch.save({"mel": MEL}, path), "dict"),
        ("truncated.pt", lambda path: path.write_bytes(b"PK\x03\x04abc"), "damaged"),
        ("none.npy", lambda path: path.write_bytes(b""), "damaged"),
    ],
)
def test_unusable_mels_are_refused_by_name(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: .*{words}") as error:
        read_mel(tmp_path / name, 20)
    assert "\n" not in str(error.value)
