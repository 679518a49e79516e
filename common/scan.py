"""The files of a folder and its subfolders."""

import os
from pathlib import Path


def scan(folder, suffixes):
    """Regular files in a folder and its subfolders, and links to such.

    Hidden files and folders are left out: their names start with a dot, as `._a.wav` of macOS does. A linked folder is followed,
    but no folder is read twice: not where links make a circle, nor where a link leads to a folder of the same tree.

    Args:
        folder: path; read even where its own name starts with a dot.
        suffixes: in lower case, with their dots; `A.WAV` has the suffix `.wav`.

    Returns:
        list of `Path`, sorted.

    Raises:
        OSError: the folder or one of its subfolders cannot be read; the error names it.
    """
    found, folders, links, seen = [], [Path(folder)], [], set()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)  # links last: a file is found under its own name where it has one
        identity = _identity(here)
        if identity in seen:
            continue
        seen.add(identity)
        for name in sorted(os.listdir(here)):
            path = here / name
            if name.startswith("."):
                continue
            if os.path.isdir(path):
                (links if os.path.islink(path) else folders).append(path)
            elif path.suffix.lower() in suffixes and os.path.isfile(path):
                found.append(path)
    return sorted(found)


def _identity(folder):
    status = os.stat(folder)
    return status.st_dev, status.st_ino
