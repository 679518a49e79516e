"""Standard output of a run that outlives whoever reads it."""

import contextlib
import os
import sys


@contextlib.contextmanager
def unless_output_fails():
    """A body that prints; if that fails, what standard output is given from then on goes nowhere.

    The disk may be full, the terminal closed, or the reader of a pipe gone.
    """
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):  # one without a file, as in a notebook
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # what is still in its buffer goes there, too
            os.close(nowhere)
