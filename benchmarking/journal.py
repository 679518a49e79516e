"""A record of results on disk, written as they come, so that a killed run goes on where it was.

The first line holds the settings that the results follow from; every other line is a result.
"""

import errno
import json
import os
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from tqdm import tqdm

from common.errors import InputError, shortened
from common.files import check_regular


class Journal:
    """Results on disk, written as they come.

    Args:
        path: the file; made where it is missing, with its folder.
        settings: dictionary of JSON values. A journal with other settings is refused.

    Attributes:
        entries: the results so far, in order, as dictionaries.

    Raises:
        OSError: the file cannot be read or made.
        InputError: the file is no journal, that of another run, or in use by another process; the message names the setting
            that differs, or the line that is wrong.
    """

    def __init__(self, path, settings):
        self.path = Path(path)
        self.entries = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            check_regular(self.path)
        self.file = open(self.path, "a+b")
        try:
            self._lock()
            self._read(json.loads(json.dumps(settings)))  # as they come back from the file: tuples as lists
        except BaseException:
            self.file.close()
            raise

    def _lock(self):
        """Keeps other processes out until this one closes the file or ends, however it ends."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: in use by another process (expected: another output, or wait for it)") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # a file system without locks
                raise

    def _read(self, settings):
        self.file.seek(0)
        content = self.file.read()
        whole = content[: content.rfind(b"\n") + 1]
        first = json.dumps({"settings": settings}).encode() + b"\n"
        if not whole and first.startswith(content):  # new, or killed in the middle of the first line
            self.file.truncate(0)
            self._write(first)
            return
        lines = [self._parse(line, number) for number, line in enumerate(whole.splitlines(), 1)]
        if not lines or not isinstance(lines[0].get("settings"), dict):
            raise InputError(f"{self.path}: not a journal of this command, its first line has no 'settings'")
        found = lines[0]["settings"]
        for key in [*settings, *found]:
            if found.get(key) != settings.get(key):
                raise InputError(
                    f"{self.path}: journal of another run, its {key} is {shortened(found.get(key))} "
                    f"(expected: {shortened(settings.get(key))}); remove it to start anew"
                )
        self.entries = lines[1:]
        if len(whole) < len(content):  # killed in the middle of a line
            self.file.truncate(len(whole))

    def _parse(self, line, number):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise InputError(f"{self.path}: not a journal of this command, or a damaged one: line {number} is no JSON object")
        return entry

    def _write(self, line):
        self.file.write(line)
        self.file.flush()
        os.fsync(self.file.fileno())

    def append(self, entry):
        """Adds a result, on disk when this returns."""
        self._write(json.dumps(entry).encode() + b"\n")
        self.entries.append(entry)

    def close(self):
        self.file.close()


def progress(total, unit, initial=0):
    """A bar of `tqdm`; where it does not go to a terminal, a line a minute at most."""
    return tqdm(total=total, unit=unit, initial=initial, mininterval=0.1 if sys.stderr.isatty() else 60)
