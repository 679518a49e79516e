"""The scripts, called as a user calls them: from any folder, with spaces in paths."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import runs.make_filelists
from common.errors import run_command
from tests.conftest import ROOT
from tests.processes import run_to_end


def sh(script, *arguments, root=ROOT, **options):
    """Runs a script of the repository at `root`, where its modules are."""
    return run_to_end("sh", root / "runs" / script, *arguments, **{"cwd": root} | options)


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository under a path with a space, whose `.venv` runs this environment's Python."""
    root = tmp_path / "a clone"
    root.mkdir()
    for name in ("common", "benchmarking", "extensions", "model", "runs", "filelists", "schedules", "configs"):
        shutil.copytree(ROOT / name, root / name)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, root)
    (root / ".venv").symlink_to(ROOT / ".venv")
    return root


needs_venv = pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="the scripts' own environment is not installed")


@needs_venv
def test_inference_from_another_folder(clone, tmp_path, tiny_checkpoint):
    work = tmp_path / "elsewhere"
    work.mkdir()
    np.save(work / "my mel.npy", np.full((20, 6), -5.0))
    (work / "mels.txt").write_text("my mel.npy\n")
    result = sh(
        "inference.sh",
        "-ch",
        tiny_checkpoint,
        "-ns",
        clone / "schedules" / "wg-3.json",
        "-m",
        "mels.txt",
        "-v",
        "yes",
        root=clone,
        cwd=work,
    )
    assert result.returncode == 0, result.stderr
    assert soundfile.info(work / "outputs" / "my mel.wav").frames == 240


@needs_venv
def test_bad_input_keeps_its_status_through_the_shell(clone):
    result = sh("inference.sh", "-ch", "none.pt", "-ns", "none.json", "-m", "none.txt", root=clone)
    assert result.returncode == 2
    assert result.stderr.strip() == "error: none.txt: No such file or directory"


@needs_venv
def test_make_filelists_gives_the_same_split_every_time(clone, tmp_path, write_recording):
    folder = tmp_path / "my recordings"
    for i in range(12):
        write_recording(folder / f"{i % 3}" / f"clip {i}.wav", seconds=0.05)
    splits = []
    for output in ("one", "two"):
        result = sh("make_filelists.sh", "my recordings", output, "--test", "2", "--validation", "3", root=clone, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        splits.append({name: (tmp_path / output / f"{name}.txt").read_text() for name in ("train", "validation", "test")})
    assert splits[0] == splits[1]
    lines = {name: text.splitlines() for name, text in splits[0].items()}
    assert [len(lines[name]) for name in ("train", "validation", "test")] == [7, 3, 2]
    everything = sum(lines.values(), [])
    assert len(set(everything)) == 12
    assert all((tmp_path / "one" / line).is_file() for line in everything)

    # A recording more takes the place of one at most in each set.
    write_recording(folder / "new.wav", seconds=0.05)
    sh("make_filelists.sh", "my recordings", "three", "--test", "2", "--validation", "3", root=clone, cwd=tmp_path)
    for name, before in lines.items():
        assert len(set(before) - set((tmp_path / "three" / f"{name}.txt").read_text().splitlines())) <= 1


@needs_venv
def test_make_filelists_through_the_shell_is_one_line(clone, tmp_path):
    result = sh("make_filelists.sh", "none", root=clone, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: none: not a folder (expected: a folder of recordings)\n")


@pytest.fixture
def make_filelists(tmp_path, monkeypatch, capsys):
    """make_filelists(*arguments): status, standard error, and the lists' lines by name, of the folder `recordings`."""
    (tmp_path / "recordings").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(*arguments, output="lists"):
        monkeypatch.setattr(sys, "argv", ["make_filelists.py", "recordings", output, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            run_command(runs.make_filelists.main)
        lists = sorted((tmp_path / output).glob("*.txt")) if (tmp_path / output).is_dir() else []
        return exit_.value.code, capsys.readouterr().err, {path.stem: path.read_bytes().splitlines() for path in lists}

    return run


def test_make_filelists_of_few_recordings_names_the_options(make_filelists, tmp_path, write_recording):
    for n in range(3):
        write_recording(tmp_path / "recordings" / f"{n}.wav", seconds=0.05)
    status, error, lists = make_filelists()
    assert status == 2 and lists == {} and error.count("\n") == 1
    assert "recordings: 3 recordings" in error and "--validation 20, --test 20" in error and "41 or more" in error
    assert make_filelists("--test", -3, "--validation", 4)[0] == 2
    status, _, lists = make_filelists("--test", 1, "--validation", 1)
    assert status == 0 and {name: len(lines) for name, lines in lists.items()} == {"test": 1, "train": 1, "validation": 1}


def test_make_filelists_takes_the_names_that_people_have(make_filelists, tmp_path, write_recording):
    """Capitals, other encodings, links and circles of links; but nothing hidden."""
    folder = tmp_path / "recordings"
    for name in ("a.WAV", ".hidden.wav", "._a.wav", ".trash/b.wav", "c|d.wav"):
        write_recording(folder / name, seconds=0.05)
    write_recording(tmp_path / "elsewhere" / "e.flac", seconds=0.05)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    expected = {b"a.WAV", b"c|d.wav", b"linked/e.flac"}
    if sys.platform == "linux":
        (folder / "a.WAV").rename(os.fsdecode(os.fsencode(folder) + b"/\xe4\xe0.wav"))
        expected = expected - {b"a.WAV"} | {b"\xe4\xe0.wav"}
    status, error, lists = make_filelists("--test", 1, "--validation", 1)
    assert (status, error) == (0, "")
    assert {line.removeprefix(b"../recordings/") for lines in lists.values() for line in lines} == expected
    assert sum(map(len, lists.values())) == len(expected)


def test_make_filelists_refuses_what_it_cannot_write(make_filelists, tmp_path, write_recording):
    for n in range(3):
        write_recording(tmp_path / "recordings" / f"{n}.wav", seconds=0.05)
    (tmp_path / "file").touch()
    status, error, _ = make_filelists("--test", 1, "--validation", 1, output="file/lists")
    assert status == 2 and error.count("\n") == 1 and "file" in error
    write_recording(tmp_path / "recordings" / "two\nlines.wav", seconds=0.05)
    status, error, lists = make_filelists("--test", 1, "--validation", 1)
    assert status == 2 and error.count("\n") == 1 and lists == {}
    assert r"two\nlines.wav': a line break in its name" in error


def test_make_filelists_replaces_no_other_list(make_filelists, tmp_path, write_recording):
    """Twice is once, also where the recordings were moved behind a link; another split, or a list of one's own, is refused whole."""
    for n in range(4):
        write_recording(tmp_path / "recordings" / f"{n}.wav", seconds=0.05)
    status, _, lists = make_filelists("--test", 1, "--validation", 1)
    assert status == 0
    before = (tmp_path / "lists" / "train.txt").stat()
    (tmp_path / "recordings").rename(tmp_path / "moved")
    (tmp_path / "recordings").symlink_to("moved")
    assert make_filelists("--test", 1, "--validation", 1) == (0, "", lists)
    assert (tmp_path / "lists" / "train.txt").stat().st_mtime_ns == before.st_mtime_ns
    for path, content in {"train.txt": b"a.wav\n", "test.txt": b"\0" * 9000 + b"\n", "validation.txt": lists["train"][0]}.items():
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / path).write_bytes(content)
        status, error, found = make_filelists("--test", 1, "--validation", 1, output="own")
        assert status == 2 and error.count("\n") == 1 and f"own/{path}: is there already" in error and "OUTPUT_DIR" in error
        assert found == {path.removesuffix(".txt"): content.splitlines()}
        (tmp_path / "own" / path).unlink()
    assert make_filelists("--test", 2, "--validation", 1)[::2] == (2, lists)


@needs_venv
def test_the_corpus_has_the_lists_of_the_repository(clone, tmp_path, write_recording):
    """Once it is there, fetching it again changes nothing; nor does it where the corpus is a link."""
    lists = {path: path.read_bytes() for path in sorted((clone / "filelists" / "festvox-ru").glob("*.txt"))}
    first, *names = [line.rpartition("/")[2] for content in lists.values() for line in content.decode().splitlines()]
    corpus = tmp_path / "elsewhere" / "festvox-ru"
    write_recording(corpus / first, seconds=0.05, sample_rate=16000)
    for name in names:
        shutil.copy(corpus / first, corpus / name)
    (clone / "corpus").symlink_to(tmp_path / "elsewhere")
    result = sh("get_corpus.sh", root=clone)
    assert (result.returncode, result.stderr) == (0, "")
    assert {path: path.read_bytes() for path in lists} == lists and len(names) == 619


@pytest.mark.parametrize("script", ["get_corpus.sh", "get_unseen_speakers.sh", "samples.sh", "demo.sh", "test.sh"])
def test_help_of_a_script_does_nothing(tmp_path, script):
    """In a folder where its work would fail; and what it does not know is not ignored."""
    shutil.copytree(ROOT / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "setup.sh").write_text("echo installed; exit 7\n")
    for option in ("-h", "--help"):
        result = sh(script, option, root=tmp_path)
        assert (result.returncode, result.stderr) == (0, "") and "installed" not in result.stdout
        assert f"Usage: sh runs/{script}" in result.stdout and "set -eu" not in result.stdout
    if script != "test.sh":  # whose arguments go to pytest
        result = sh(script, "--all", root=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"error: {script}: unknown argument '--all' (expected: none, or --help)\n"
    assert sh(script, root=tmp_path).returncode == 7


def test_search_help_fetches_nothing(tmp_path):
    """Nor does a search on other recordings; both in a folder where fetching would fail."""
    root = tmp_path / "clone"
    (root / "runs").mkdir(parents=True)
    shutil.copy(ROOT / "runs" / "search.sh", root / "runs")
    (root / "runs" / "setup.sh").write_text('root=$(cd "$(dirname "$0")/.." && pwd)\npython=echo\n')
    (root / "runs" / "get_corpus.sh").write_text("echo fetched; exit 7\n")
    for arguments in (["--help"], ["--steps", "3", "-h"], ["--filelist", "my list.txt"], ["--filelist=my list.txt"]):
        result = sh("search.sh", *arguments, root=root)
        assert result.returncode == 0 and "fetched" not in result.stdout, arguments
        assert "benchmark.py search" in result.stdout and " ".join(arguments) in result.stdout
    result = sh("search.sh", "--steps", "3", root=root)
    assert (result.returncode, result.stdout) == (7, "fetched\n")


FAKE_PYTHON = """#!/bin/sh
# Stands in for python3: `python3 -m venv DIR` makes a bin/python that records what it is asked.
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'EOF'
#!/bin/sh
echo "$@" >> "$(dirname "$0")/../asked"
EOF
chmod +x "$3/bin/python"
"""


@pytest.fixture
def fake_python(tmp_path):
    """A folder to put first on PATH, with a `python3` that makes an environment in no time."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "python3").write_text(FAKE_PYTHON)
    (folder / "python3").chmod(0o755)
    return folder


def test_setup_installs_once_and_again_after_an_interruption(clone, fake_python):
    venv = clone / ".venv"
    venv.unlink()
    environment = {**os.environ, "PATH": f"{fake_python}:{os.environ['PATH']}"}

    def inference():
        assert sh("inference.sh", "-x", root=clone, env=environment).returncode == 0
        return [line for line in (venv / "asked").read_text().splitlines() if "pip install" in line]

    assert len(inference()) == 1
    assert len(inference()) == 1, "a second run installs again"
    (clone / "requirements.txt").write_text("something-else\n")
    assert len(inference()) == 2, "changed requirements are not installed"
    (venv / "installed-requirements.txt").unlink()
    (venv / "leftover").write_text("of an interrupted installation")
    assert len(inference()) == 1, "an interrupted installation is not started again"
    assert not (venv / "leftover").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "runs").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_posix(script):
    assert run_to_end("sh", "-n", script).returncode == 0


def test_make_filelists_splits_within_each_speaker(make_filelists, tmp_path, write_recording):
    """Fails if a speaker's recordings are all in one list, or an unseen speaker's in another than `unseen.txt`."""
    for speaker, n_recordings in {"anna": 5, "bert": 3, "carla": 2, "dora": 1}.items():
        for n in range(n_recordings):
            write_recording(tmp_path / "recordings" / speaker / f"{n}.wav", seconds=0.05)
    arguments = ["--by_folder", "--validation", 1, "--test", 1]
    status, error, lists = make_filelists(*arguments, "--unseen", "dora")
    assert status == 2 and lists == {} and error.count("\n") == 1
    assert "speaker 'carla': 2 recordings are too few" in error and "3 or more, or --unseen carla" in error
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


def test_scripts_run_with_cdpath_and_without_cmp(tmp_path):
    """Fails if `cd` prints where it goes, or if packages are installed at each call of a minimal container."""
    (tmp_path / "root" / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "runs", tmp_path / "root" / "runs")
    for target in ("requirements.txt", ".venv/installed-requirements.txt"):
        shutil.copy(ROOT / "requirements.txt", tmp_path / "root" / target)
    python = tmp_path / "root" / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "called: $*"\n')
    python.chmod(0o755)
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "dirname", "rm"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    environment = os.environ | {"CDPATH": ".", "PATH": str(tmp_path / "bin")}
    for _ in range(2):
        result = subprocess.run(
            ["sh", "runs/make_mels.sh", "--help"], cwd=tmp_path / "root", env=environment, capture_output=True, text=True
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, "called: -m runs.make_mels --help\n", "")
