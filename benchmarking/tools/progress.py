"""How far a long command is: a bar in a terminal, and a line at every tenth elsewhere, where a bar would fill a log."""

import sys
import time

from tqdm import tqdm


class TenthsInLines:
    """The part of tqdm's interface that is used here, on standard error, in whole lines."""

    def __init__(self, total, unit, initial=0):
        self.total, self.unit, self.n = total, unit, initial
        self.postfix = ""
        self.start = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def set_postfix_str(self, text):
        self.postfix = f", {text}"

    def update(self, n=1):
        tenth = 10 * self.n // self.total
        self.n += n
        if 10 * self.n // self.total > tenth:
            self.write(f"{self.n} of {self.total} {self.unit}s, {time.monotonic() - self.start:.0f} s{self.postfix}")

    def write(self, text, file=None):
        print(text, file=file or sys.stderr, flush=True)


def progress(total, unit, initial=0):
    """A context: `update(n)` when n more are done, `set_postfix_str` and `write` as of `tqdm`."""
    return (tqdm if sys.stderr.isatty() else TenthsInLines)(total=total, unit=unit, initial=initial)
