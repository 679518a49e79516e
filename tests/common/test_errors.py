"""Bad input is one line and status 2, whatever it is and wherever it is printed."""

import importlib
import os
import signal
import time

import pytest

from common.errors import CommandParser, InputError, describe, non_negative_int, positive_float, positive_int, run_command, seed_int
from tests.processes import PYTHON, start


@pytest.mark.parametrize("text", ["0", "-1", "1.5", " ", "a", "nan", "9" * 5000, str(2**31)])
def test_counts_are_whole_numbers_within_reason(capsys, text):
    parser = CommandParser()
    parser.add_argument("--steps", type=positive_int)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["--steps", text])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("error: --steps is ") and "expected: a whole number, 1 to" in error
    assert error.count("\n") == 1 and len(error) < 200


@pytest.mark.parametrize("argument, words", [("", "an empty argument"), ("x" * 5000, "unrecognized arguments: --y xxx")])
def test_empty_and_endless_arguments_are_one_short_line(capsys, argument, words):
    """Fails if an unset variable of a script stands for the current folder, or a message fills the screen."""
    parser = CommandParser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--y", argument])
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and len(error) < 200


def test_the_smallest_and_largest_numbers_that_are_taken():
    assert (positive_int("1"), non_negative_int("0"), seed_int("0"), seed_int(str(2**47 - 1))) == (1, 0, 0, 2**47 - 1)
    assert positive_float("1e-3") == 1e-3


def test_an_error_is_one_line_whatever_it_names():
    assert describe(FileNotFoundError(2, "No such file", "a\nb\u2028c")) == "a b c: No such file"
    assert describe(InputError("a\n  b")) == "a b"
    assert describe(FileNotFoundError(2, "No such file", "x" * 5000)) == "x" * 200 + "... No such file"


SCRIPT = "import sys, time\nfrom common.errors import InputError, run_command\ndef main():\n    {}\nrun_command(main)\n"


def python(body, on_hangup=signal.SIG_DFL, **options):
    return start(PYTHON, "-c", SCRIPT.format(body), preexec_fn=lambda: signal.signal(signal.SIGHUP, on_hangup), **options)


def test_standard_output_that_cannot_print_a_character_prints_its_number():
    """As on a Windows console, or under LC_ALL=C."""
    process = python("print('0.1 ± 0.2 ü')", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "0.1 \\xb1 0.2 \\xfc\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_an_exception_does(number):
    """Fails if temporary files stay, for their `finally` is not reached."""
    body = "try:\n        print('x', flush=True)\n        time.sleep(60)\n    finally:\n        print('cleaned', flush=True)"
    process = python(body)
    process.stdout.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (128 + number, "cleaned\n", "")


def test_nohup_keeps_a_command_alive():
    process = python("print('x', flush=True)\n    time.sleep(2)", on_hangup=signal.SIG_IGN)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    "error, said",
    [
        (MemoryError(), "error: out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nto"), "error: out of memory: "),
        (InputError("a"), "error: a"),
        (OSError(28, "No space left on device", "a.wav"), "error: a.wav: No space left on device"),
    ],
)
def test_what_goes_wrong_outside_the_program_is_one_line(capsys, error, said):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_fault_of_the_program_is_not_hidden():
    def main():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError):
        run_command(main)


def test_a_missing_package_is_one_line_with_the_command(capsys):
    """Metrics, search and ONNX need packages that inference and training do not."""
    with pytest.raises(SystemExit) as status:
        run_command(lambda: importlib.import_module("no_such_package"))
    error = capsys.readouterr().err
    assert status.value.code == 2 and error.count("\n") == 1
    assert error.startswith("error: package no_such_package is missing (expected: ") and "requirements-dev.txt" in error
