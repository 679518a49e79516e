"""Lists of a folder of recordings: the same split every time, and nothing of the user's is lost."""

import os
import sys

import pytest

import runs.make_filelists
from common.errors import run_command


@pytest.fixture
def record(tmp_path, write_recording):
    """record(*names): short recordings in the folder `recordings`."""
    return lambda *names: [write_recording(tmp_path / "recordings" / name, seconds=0.05) for name in names]


@pytest.fixture
def make_filelists(tmp_path, monkeypatch, capsys):
    """make_filelists(*arguments): status, standard error, and the lists' lines by name, of the folder `recordings`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, output="lists"):
        monkeypatch.setattr(sys, "argv", ["make_filelists.py", "recordings", output, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            run_command(runs.make_filelists.main)
        lists = sorted((tmp_path / output).glob("*.txt")) if (tmp_path / output).is_dir() else []
        return exit_.value.code, capsys.readouterr().err, {path.stem: path.read_bytes().splitlines() for path in lists}

    return run


def test_gives_the_same_split_every_time(make_filelists, record, tmp_path):
    """Fails if a recording is in no list or in two, or one recording more changes more than one line of a list."""
    record(*(f"{i % 3}/clip {i}.wav" for i in range(12)))
    status, error, lists = make_filelists("--test", 2, "--validation", 3)
    assert (status, error) == (0, "") and {name: len(lines) for name, lines in lists.items()} == {"train": 7, "validation": 3, "test": 2}
    everything = sum(lists.values(), [])
    assert len(set(everything)) == 12 and all((tmp_path / "lists" / os.fsdecode(line)).is_file() for line in everything)
    assert make_filelists("--test", 2, "--validation", 3, output="again")[2] == lists
    record("new.wav")
    more = make_filelists("--test", 2, "--validation", 3, output="more")[2]
    assert all(len(set(lines) - set(more[name])) <= 1 for name, lines in lists.items())


def test_takes_the_names_that_people_have(make_filelists, record, tmp_path):
    """Capitals, bars, and other encodings."""
    names = [b"a.WAV", b"c|d.wav", b"e/f.flac"]
    record(*map(os.fsdecode, names), "g.wav")
    names.append(b"\xe4\xe0.wav" if sys.platform == "linux" else b"h.wav")
    (tmp_path / "recordings" / "g.wav").rename(tmp_path / "recordings" / os.fsdecode(names[-1]))
    status, error, lists = make_filelists("--test", 1, "--validation", 1)
    assert (status, error) == (0, "")
    assert sorted(line.removeprefix(b"../recordings/") for lines in lists.values() for line in lines) == sorted(names)


def test_refuses_in_one_line(make_filelists, record, tmp_path):
    """Too few recordings, a place that cannot be written, a name that no list can hold: nothing is written."""
    record("0.wav", "1.wav", "2.wav")
    (tmp_path / "file").touch()
    split = "--test", 1, "--validation", 1
    for arguments, output, said in [
        ([], "lists", "recordings: 3 recordings are too few for --validation 20, --test 20"),
        (["--test", -3], "lists", "--test is -3"),
        (split, "file/lists", "file"),
    ]:
        status, error, lists = make_filelists(*arguments, output=output)
        assert status == 2 and lists == {} and error.count("\n") == 1 and said in error
    record("two\nlines.wav")
    status, error, lists = make_filelists(*split)
    assert status == 2 and lists == {} and r"two\nlines.wav': a line break in its name" in error and error.count("\n") == 1


def test_replaces_no_other_list(make_filelists, record, tmp_path):
    """Twice is once, also where the recordings were moved behind a link; another split, or a list of one's own, is refused whole."""
    record(*(f"{n}.wav" for n in range(4)))
    _, _, lists = make_filelists("--test", 1, "--validation", 1)
    (tmp_path / "recordings").rename(tmp_path / "moved")
    (tmp_path / "recordings").symlink_to("moved")
    assert make_filelists("--test", 1, "--validation", 1) == (0, "", lists)
    (tmp_path / "lists" / "test.txt").write_bytes(b"mine")
    (tmp_path / "lists" / "train.txt").unlink()
    status, error, found = make_filelists("--test", 1, "--validation", 1)
    assert status == 2 and error.count("\n") == 1 and "lists/test.txt: is there already" in error and "OUTPUT_DIR" in error
    assert found == {"test": [b"mine"], "validation": lists["validation"]}


def test_splits_within_each_speaker(make_filelists, record):
    """Fails if a speaker's recordings are all in one list, or an unseen speaker's in another than `unseen.txt`."""
    sizes = {"anna": 5, "bert": 3, "carla": 2, "dora": 1}
    record(*(f"{speaker}/{n}.wav" for speaker, size in sizes.items() for n in range(size)))
    arguments = ["--by_folder", "--validation", 1, "--test", 1]
    status, error, lists = make_filelists(*arguments, "--unseen", "dora")
    assert status == 2 and lists == {} and error.count("\n") == 1
    assert "carla: 2 recordings are too few" in error and "expected: 3 or more" in error
    assert "speaker 'emil' has no folder" in make_filelists(*arguments, "--unseen", "emil")[1]
    assert "expected: --by_folder too" in make_filelists("--unseen", "dora")[1]
    status, error, lists = make_filelists(*arguments, "--unseen", "dora", "--validation_speakers", "carla")
    assert (status, error) == (0, "")
    speakers = {name: sorted(line.split(b"/")[2].decode() for line in lines) for name, lines in lists.items()}
    assert speakers == {
        "train": ["anna"] * 3 + ["bert"],
        "validation": ["anna", "bert", "carla", "carla"],
        "test": ["anna", "bert"],
        "unseen": ["dora"],
    }
