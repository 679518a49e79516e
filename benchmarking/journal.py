"""A record of results on disk, written as they come, so that a killed run goes on where it was.

The first line holds the settings that the results follow from; every other line is a result.
"""

import json
import os
from pathlib import Path

from model.errors import InputError
from model.files import save_text


class Journal:
    """Args:
        path: the file; made where it is missing.
        settings: dictionary of JSON values. A journal with other settings is refused.

    Attributes:
        entries: the results so far, in order.

    Raises:
        InputError: the file is no journal, or that of another run; the message names the setting that differs.
    """

    def __init__(self, path, settings):
        self.path = Path(path)
        self.entries = []
        settings = json.loads(json.dumps(settings))  # as they come back from the file: tuples as lists
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"settings": settings}) + "\n"
            save_text(line, self.path)
        else:
            self._read(settings)
        self.file = open(self.path, "ab")

    def _read(self, settings):
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            found, *entries = [json.loads(line) for line in whole.splitlines()]
            found = found["settings"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.path}: not a journal of this command, or a damaged one") from None
        for key in [*settings, *found]:
            if found.get(key) != settings.get(key):
                raise InputError(
                    f"{self.path}: journal of another run, its {key} is {found.get(key)} (wanted: {settings.get(key)}); "
                    "remove it to start anew"
                )
        self.entries = entries
        if len(whole) < len(content):  # killed in the middle of a line
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))

    def append(self, entry):
        """Adds a result, on disk when this returns."""
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.entries.append(entry)

    def close(self):
        self.file.close()
