"""Where the waveforms of files go, so that no two share a file and none replaces what the user had."""

import os
from pathlib import Path

from model.errors import InputError

UNNAMED = "unnamed"  # for the root folder, which a list may name, though it cannot be read


def entry(path):
    """Where a file is, however its path is spelled: its real folder, and its name in it. A link is a file of its own."""
    path = Path(path)
    return Path(os.path.realpath(path.parent)) / path.name


def distinct(paths):
    """The paths without those that name the same file again."""
    return list({entry(path): path for path in reversed(paths)}.values())[::-1]


def output_paths(inputs, output_dir):
    """Where each input's waveform goes: its name with `.wav`.

    Inputs that would share a file keep the folders below their common parent, and if that does not help their suffix.

    Args:
        inputs: paths, all of them `distinct`.
    """
    absolute = [Path(os.path.abspath(path)) for path in inputs]
    names = [Path(path.stem or UNNAMED) for path in absolute]
    if len(set(names)) < len(names):
        parent = os.path.commonpath([path.parent for path in absolute])
        whole_names = [Path(os.path.relpath(path, parent)) for path in absolute]
        whole_names = [name if name.name else Path(UNNAMED) for name in whole_names]
        names = [name.with_suffix("") for name in whole_names]
        # A whole name may be another's without its suffix, so this is repeated until none is shared.
        while shared := {name for name in names if names.count(name) > 1}:
            names = [whole if name in shared else name for name, whole in zip(names, whole_names)]
    return [Path(output_dir) / name.with_name(name.name + ".wav") for name in names]


class OutputGuard:
    """Refuses to write over an input, over what lies beside one, or over another output.

    Args:
        inputs: all the paths that are read.
    """

    def __init__(self, inputs):
        self.files = {status: path for path in inputs if (status := _identity(path))}
        self.folders = {entry(path).parent for path in inputs}
        self.taken = {}

    def check(self, path, output):
        """Raises an `InputError` if the result of `path` must not be written to `output`."""
        place = entry(output)
        if self.taken.setdefault(place, path) != path:
            raise InputError(f"{path}: the result would replace that of {self.taken[place]}, {output} (wanted: another --output_dir)")
        if os.path.lexists(output) and (source := self.files.get(_identity(output))):
            raise InputError(f"{path}: the result would overwrite {source} (wanted: another --output_dir)")
        if os.path.lexists(output) and place.parent in self.folders:
            raise InputError(f"{path}: {output} is there already, in a folder of the inputs (wanted: another --output_dir)")


def _identity(path):
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
