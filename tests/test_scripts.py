"""The scripts, called as a user calls them: from any folder, with spaces in paths."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT


def sh(script, *arguments, root=ROOT, cwd=None):
    return subprocess.run(
        ["sh", str(root / "runs" / script), *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository under a path with a space, whose `.venv` runs this environment's Python."""
    root = tmp_path / "a clone"
    root.mkdir()
    for name in ("model", "runs", "filelists", "schedules", "configs"):
        shutil.copytree(ROOT / name, root / name)
    for path in [*ROOT.glob("*.py"), ROOT / "requirements.txt"]:
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
        "inference.sh", "-ch", tiny_checkpoint, "-ns", clone / "schedules" / "wg-3.json", "-m", "mels.txt", "-v", "yes",
        root=clone, cwd=work,
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

    # A recording more moves no other one between the sets.
    write_recording(folder / "new.wav", seconds=0.05)
    sh("make_filelists.sh", "my recordings", "three", "--test", "2", "--validation", "3", root=clone, cwd=tmp_path)
    assert set(lines["train"]) - set((tmp_path / "three" / "train.txt").read_text().splitlines()) <= set(
        (tmp_path / "three" / "validation.txt").read_text().splitlines()
        + (tmp_path / "three" / "test.txt").read_text().splitlines()
    )


@needs_venv
@pytest.mark.parametrize("argument, words", [("none", "none: not a folder"), (".", "recordings .wanted: 41 or more")])
def test_make_filelists_refuses_a_folder_without_recordings(clone, tmp_path, argument, words):
    result = sh("make_filelists.sh", argument, root=clone, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and result.stderr.startswith("error: ")
    assert words.split(" .")[0] in result.stderr


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
        subprocess.run(["sh", str(clone / "runs" / "inference.sh"), "-x"], env=environment, check=True, capture_output=True)
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
    assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
