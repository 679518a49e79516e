"""Bad input is one line and status 2, whatever it is and wherever it is printed."""

import os
import re
import signal
import time

import pytest

from common.errors import CommandParser, InputError, describe, non_negative_int, positive_float, positive_int, run_command, seed_int
from tests.processes import PYTHON, start


@pytest.mark.parametrize(
    "arguments, words",
    [
        *(
            (["--steps", text], "--steps is .*expected: a whole number, 1 to")
            for text in ("0", "-1", "1.5", " ", "a", "nan", "9" * 5000, str(2**31))
        ),
        (["--y", ""], "an empty argument"),
        (["--y", "x" * 5000], "unrecognized arguments: --y xxx"),
    ],
)
def test_bad_arguments_are_one_short_line(capsys, arguments, words):
    """Fails if an unset variable of a script stands for the current folder, or a message fills the screen."""
    parser = CommandParser()
    parser.add_argument("--steps", type=positive_int)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(arguments)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and re.match(f"error: {words}", error) and error.count("\n") == 1 and len(error) < 200


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
        (ModuleNotFoundError("No module", name="visqol"), "error: package visqol is missing .expected: .*-r requirements-dev.txt"),
        (ModuleNotFoundError("No module", name="gradio"), "error: package gradio is missing .expected: .*-r requirements-app.txt"),
        (RuntimeError("shapes do not match"), None),  # a fault of the program is not hidden
    ],
)
def test_what_goes_wrong_outside_the_program_is_one_line(capsys, error, said):
    def main():
        raise error

    with pytest.raises(SystemExit if said else RuntimeError) as raised:
        run_command(main)
    if said:
        errors = capsys.readouterr().err
        assert raised.value.code == 2 and re.match(said, errors) and errors.count("\n") == 1
