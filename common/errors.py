"""Bad input from outside, and what a command says of it."""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import threading

REQUIREMENTS = {"gradio": "requirements-app.txt"}  # of optional packages; of all others requirements-dev.txt
LARGEST_COUNT = 2**31 - 1
LARGEST_SEED = 2**47 - 1  # the noise of a stream is seeded by this and 16 bits for its step: `extensions.streaming.FrameNoise`


class InputError(ValueError):
    """Something given from outside cannot be used; the message is one line that names it, what was found and what was expected."""


@contextlib.contextmanager
def naming(origin):
    """Begins the message of an `InputError` that its body raises with `origin`, the file or value that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def describe(error):
    """One line for an `InputError` or an `OSError`, in which a word of no sensible length is cut."""
    text = error
    if isinstance(error, OSError) and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename is not None else error.strerror
    return re.sub(r"\S{1000,}", lambda word: shortened(word[0], 200), one_line(text))


def one_line(text):
    """A text in one line that can be printed, whatever the names in it hold."""
    return " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()


def is_out_of_memory(error):
    """Whether an exception says that there is not enough memory; PyTorch's CPU allocator has no class of its own for that."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that says what is wrong with a command line in one line, without the usage."""

    def parse_known_args(self, args=None, namespace=None):
        if "" in (sys.argv[1:] if args is None else args):
            self.error("an empty argument (expected: none; an unset variable in a script?)")
        return super().parse_known_args(args, namespace)

    def error(self, message):
        message = re.sub(r"^argument (\S+): is ", r"\1 is ", one_line(message))
        message = re.sub(r"\S{200,}", lambda word: shortened(word[0]), message)
        self.exit(2, f"error: {message}\n")


def positive_int(text, least=1, most=LARGEST_COUNT):
    """`type=` of an option that takes a whole number, 1 or more."""
    try:
        value = int(text)
    except ValueError:  # more than 4,300 digits among others
        value = None
    if value is None or not least <= value <= most:
        raise argparse.ArgumentTypeError(f"is {shortened(text)} (expected: a whole number, {least} to {most})")
    return value


def non_negative_int(text):
    """`type=` of an option that takes a whole number, 0 or more."""
    return positive_int(text, least=0)


def seed_int(text):
    """`type=` of an option that takes a seed."""
    return positive_int(text, least=0, most=LARGEST_SEED)


def positive_float(text):
    """`type=` of an option that takes a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"is {shortened(text)} (expected: a number above 0)")
    return value


def shortened(text, length=60):
    """A value given from outside, short enough for a message."""
    text = one_line(text)
    return text if len(text) <= length else f"{text[:length]}..."


def shown(value):
    """`repr` of something given from outside, short enough for a message; of what cannot be printed, such as a damaged tensor, its type."""
    try:
        return shortened(repr(value))
    except Exception:  # PyTorch promises no set of exceptions
        return f"a {type(value).__name__} that cannot be printed"


def _end_by_signals():
    """SIGTERM and SIGHUP end the command as SystemExit does, so that no temporary file stays."""

    def end(number, _):
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, end)


def open_closed_streams():
    """Gives a process that was started without standard output or error, as by `>&-`, ones that go nowhere.

    Python has None in their place, and the next files that it opens would take their numbers.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def run_command(main):
    """Runs a command's `main` and exits with its status; bad input is one line on standard error and status 2."""
    open_closed_streams()
    if "torch" in sys.modules:
        from common.jobs import limit_threads  # imports PyTorch, which not every command needs

        limit_threads()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # where it cannot print a character such as an arrow
    _end_by_signals()
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of standard output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except (InputError, OSError) as error:
        with contextlib.suppress(OSError):  # standard error on a full disk
            print(f"error: {describe(error)}", file=sys.stderr, flush=True)
        status = 2
    except ModuleNotFoundError as error:
        requirements = REQUIREMENTS.get(error.name, "requirements-dev.txt")
        print(f"error: package {error.name} is missing (expected: {sys.executable} -m pip install -r {requirements})", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: out of memory: {shortened(error, 200)}", file=sys.stderr)
        status = 2
    sys.exit(status)
