"""The files of a folder and its subfolders."""

import os
from pathlib import Path


def scan(folder, suffixes):
    """Regular files in a folder and its subfolders, and links to such.

    Hidden files and folders are left out: their names start with a dot, as `._a.wav` of macOS does. Linked folders are followed, each once.

    Args:
        folder: path; read even where its own name starts with a dot.
        suffixes: in lower case, with their dots; `A.WAV` has the suffix `.wav`.

    Returns:
        list of `Path`, sorted.

    Raises:
        OSError: the folder or one of its subfolders cannot be read; the error names it.
    """

    def refuse(error):
        raise error

    found, seen = [], set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        paths = [Path(here) / name for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in suffixes and os.path.isfile(path)]
    return sorted(found)
