"""What the tests of training share."""

import sys

import pytest

import train
from common.errors import run_command
from tests.training_fixtures import one_thread  # noqa: F401


@pytest.fixture
def command(monkeypatch, capsys):
    """command(*arguments): `train.py` in this process; returns exit status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_status:
            run_command(train.main)
        return exit_status.value.code, *capsys.readouterr()

    return run
