"""Recordings to measure, and the command that measures them."""

import sys

import pytest

import benchmark
from benchmarking.measuring import measurer_of
from common.errors import run_command


@pytest.fixture
def filelist(tmp_path, write_recording):
    """Recordings of 1, 1.2 and 1.4 seconds."""
    names = [f"recording {number}.wav" for number in range(3)]
    for number, name in enumerate(names):
        write_recording(tmp_path / name, seconds=1.0 + 0.2 * number, seed=number)
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return tmp_path / "list.txt"


@pytest.fixture
def command(monkeypatch, capsys):
    """command(*arguments) runs benchmark.py in this process; returns its exit status, standard output and standard error."""

    def run(*arguments):
        measurer_of.cache_clear()  # a test may have changed the files
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            run_command(benchmark.main)
        return exit_.value.code, *capsys.readouterr()

    return run
