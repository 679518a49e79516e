"""Where the waveforms of files go, so that no two share a file and none replaces what the user had."""

import os
from collections import Counter
from pathlib import Path

from common.audio import is_own_wav
from common.errors import InputError

UNNAMED = "unnamed"  # for the root folder, which a list may name, though it cannot be read


def entry(path):
    """Where a file is, however its path is spelled: its real folder, and its name in it. A link is a file of its own."""
    path = Path(path)
    return Path(os.path.realpath(path.parent)) / path.name


def distinct(paths):
    """The paths without those that name the same file again."""
    return list({entry(path): path for path in reversed(paths)}.values())[::-1]


def _stem(path):
    """The name without its suffix; of dots alone, as in `..npy`, it would be a folder."""
    return path.stem if path.stem.strip(".") else UNNAMED


def output_paths(inputs, output_dir, suffix=".wav"):
    """Where each input's result goes: its name with another suffix.

    Inputs that would share a file keep the folders below their common parent, and if that does not help their suffix.

    Args:
        inputs: paths, all of them `distinct`.
        suffix: of the results.
    """
    absolute = [Path(os.path.abspath(path)) for path in inputs]
    names = [Path(_stem(path)) for path in absolute]
    if len(set(names)) < len(names):
        parent = os.path.commonpath([path.parent for path in absolute])
        whole_names = [Path(os.path.relpath(path, parent)) for path in absolute]
        whole_names = [name if name.name else Path(UNNAMED) for name in whole_names]
        names = [name.with_name(_stem(name)) for name in whole_names]
        # A whole name may be another's without its suffix, so this is repeated until none is shared.
        while shared := {name for name, count in Counter(names).items() if count > 1}:
            names = [whole if name in shared else name for name, whole in zip(names, whole_names)]
    return [Path(output_dir) / name.with_name(name.name + suffix) for name in names]


def identities(paths):
    """The files of paths, as {device and inode: path}; those that are not there are left out."""
    return {_identity(path): path for path in paths if _identity(path)}


def check_output(path, output, sources):
    """Refuses to write over an input, through a link perhaps, and over what this program has not made.

    Args:
        path: the input.
        output: where its result goes.
        sources: `identities` of all inputs.

    Raises:
        InputError: names both files.
    """
    if source := sources.get(_identity(output)):
        raise InputError(f"{path}: the result would overwrite {source} (expected: another --output_dir)")
    if os.path.isfile(output) and not is_own_wav(output):
        raise InputError(f"{path}: {output} is there already, and not made by this program (expected: another --output_dir)")


def _identity(path):
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
