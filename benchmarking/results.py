"""Results on disk, written as they come, so that a killed command goes on where it was."""

import hashlib
import json
import sys

from tqdm import tqdm

from common.files import read_text


class Results:
    """Results by what they follow from: a JSON object a line, with the digest of that as its `key`.

    Other settings are other keys, so a file may hold results of several. A line that a kill has cut off counts as none.

    Args:
        path: the file; made where it is missing, with its folder.

    Raises:
        OSError, InputError: the file cannot be read or made.
    """

    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = read_text(path, "results of this command") if path.exists() else ""
        self._found = {}
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._found[entry["key"]] = entry
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        self._file = open(path, "a", encoding="utf-8")
        if not text.endswith("\n") and text:
            self._file.write("\n")

    def get(self, *source):
        """The result that follows from JSON values, a dictionary; None where it is not known."""
        return self._found.get(_digest(source))

    def add(self, entry, *source):
        """Adds a dictionary of JSON values, on disk when this returns."""
        entry = {"key": _digest(source)} | entry
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()
        self._found[entry["key"]] = entry


def _digest(source):
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]


def progress(total, unit, initial=0):
    """A bar of `tqdm`; where it does not go to a terminal, a line a minute at most."""
    return tqdm(total=total, unit=unit, initial=initial, mininterval=0.1 if sys.stderr.isatty() else 60)
