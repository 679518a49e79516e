"""The scripts, called as a user calls them: from any folder, with spaces in paths."""

import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

import runs.denoising
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
    options = ["-ch", tiny_checkpoint, "-ns", clone / "schedules" / "wg-3.json", "-m", "mels.txt", "-v", "yes"]
    result = sh("inference.sh", *options, root=clone, cwd=work)
    assert result.returncode == 0, result.stderr
    assert soundfile.info(work / "outputs" / "my mel.wav").frames == 240
    result = sh("inference.sh", "-ch", "none.pt", "-ns", "none.json", "-m", "none.txt", root=clone, cwd=work)
    assert (result.returncode, result.stderr) == (2, "error: none.txt: No such file or directory\n")


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


@pytest.mark.parametrize(
    "module, package, requirements, arguments",
    [
        ("runs.app", "gradio", "requirements-app.txt", []),
        ("extensions.onnx.export", "onnx", "requirements-dev.txt", ["tiny.safetensors", "a.onnx", "-ns", "linear:2:0.1:0.5"]),
        ("onnx_inference", "onnxruntime", "requirements-dev.txt", ["a.onnx", "a.npy", "a.wav"]),
    ],
)
def test_a_missing_package_is_one_line(module, package, requirements, arguments, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """Fails if it is imported before the command begins, or if the line names the wrong file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(module, run_name="__main__")
    line = f"error: package {package} is missing (expected: {sys.executable} -m pip install -r {requirements})\n"
    assert (exit_.value.code, capsys.readouterr().err) == (2, line)


def test_the_denoising_is_drawn(monkeypatch, tmp_path):
    """Fails if a state of the reverse process is not in the picture."""
    monkeypatch.setattr(runs.denoising, "OUTPUT", tmp_path / "denoising.gif")
    monkeypatch.setattr(sys, "argv", ["denoising"])
    assert runs.denoising.main() == 0
    assert Image.open(tmp_path / "denoising.gif").n_frames == 7
