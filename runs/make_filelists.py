"""Splits a folder of recordings into train.txt, validation.txt and test.txt, the same way every time."""

import hashlib
import os
from collections import defaultdict
from pathlib import Path

from common.audio import AUDIO_SUFFIXES, check_audio
from common.errors import CommandParser, InputError, non_negative_int, positive_int, run_command
from common.files import save_text
from common.released import ROOT
from common.scan import scan


def split(paths, n_validation, n_test, last=False):
    """Splits paths into train, validation and test.

    Args:
        last: test and validation are the last by name; else those whose name has the smallest hash, which does not
            change when recordings are added.
    """
    paths = sorted(paths)
    ranked = paths[::-1] if last else sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.stem)).hexdigest())
    test, validation = set(ranked[:n_test]), set(ranked[n_test : n_test + n_validation])
    train = [path for path in paths if path not in test | validation]
    return {"train": train, "validation": sorted(validation), "test": sorted(test)}


def split_each(groups, n_validation, n_test, last=False, validation_speakers=(), unseen=()):
    """Splits the recordings of each group.

    Args:
        groups: name -> paths; the names of speakers, or that of the folder of all recordings.
        n_validation, n_test: recordings of each.
        validation_speakers: all of their recordings are for validation.
        unseen: speakers whose recordings are for a list of their own, `unseen`.

    Raises:
        InputError: there is no such speaker, or a group has too few recordings.
    """
    for name in [*validation_speakers, *unseen]:
        if name not in groups:
            raise InputError(f"speaker '{name}' has no folder of recordings (expected: one of {', '.join(groups)})")
    parts = {"train": [], "validation": [], "test": []} | ({"unseen": []} if unseen else {})
    for name, paths in groups.items():
        if name in unseen:
            parts["unseen"] += paths
        elif name in validation_speakers:
            parts["validation"] += paths
        elif len(paths) <= n_validation + n_test:
            raise InputError(
                f"{name}: {len(paths)} recordings are too few for --validation {n_validation}, --test {n_test} and one to train on "
                f"(expected: {n_validation + n_test + 1} or more, smaller numbers, or a speaker for --unseen)"
            )
        else:
            for part, some in split(paths, n_validation, n_test, last).items():
                parts[part] += some
    return parts


def main():
    parser = CommandParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of recordings, searched with all its subfolders")
    parser.add_argument("output", type=Path, nargs="?", help="where the lists go (default: filelists/ and the folder's name)")
    parser.add_argument("--validation", type=non_negative_int, help="number of validation recordings (default: 20; 1 a speaker)")
    parser.add_argument("--test", type=non_negative_int, help="number of test recordings (default: 20; 1 a speaker)")
    parser.add_argument("--by_folder", action="store_true", help="each folder of recordings is a speaker, whose recordings are split")
    parser.add_argument("--validation_speakers", nargs="+", default=[], metavar="NAME", help="all recordings are for validation; by folder")
    parser.add_argument("--unseen", nargs="+", default=[], metavar="NAME", help="speakers for a list of their own, unseen.txt; by folder")
    parser.add_argument("--sample_rate", type=positive_int, help="refuse recordings of another sample rate")
    parser.add_argument("--last", action="store_true", help="test and validation recordings are the last by name")
    arguments = parser.parse_args()
    if (arguments.unseen or arguments.validation_speakers) and not arguments.by_folder:
        raise InputError("--unseen and --validation_speakers name folders (expected: --by_folder too)")
    if not arguments.folder.is_dir():
        raise InputError(f"{arguments.folder}: not a folder (expected: a folder of recordings)")
    folder = Path(os.path.abspath(arguments.folder))  # which may be a link
    output = (arguments.output or ROOT / "filelists" / folder.name).resolve()
    paths = scan(folder, AUDIO_SUFFIXES)
    if not paths:
        raise InputError(f"{arguments.folder}: no recordings (expected: {', '.join(sorted(AUDIO_SUFFIXES))})")
    default = 1 if arguments.by_folder else 20
    n_validation, n_test = (default if n is None else n for n in (arguments.validation, arguments.test))
    for path in paths:
        if any(character in os.path.relpath(path, output) for character in "\r\n"):
            raise InputError(f"{os.fspath(path)!r}: a line break in its name, which no list can hold (expected: another name)")
        if arguments.sample_rate:
            check_audio(path, arguments.sample_rate)
    groups = defaultdict(list)
    for path in sorted(paths):
        groups[path.parent.name if arguments.by_folder else str(arguments.folder)].append(path)
    parts = split_each(groups, n_validation, n_test, arguments.last, arguments.validation_speakers, arguments.unseen)
    lists = {output / f"{name}.txt": [f"{os.path.relpath(path, output)}\n" for path in part] for name, part in parts.items()}
    for path, lines in lists.items():
        if path.exists() and path.read_bytes() != os.fsencode("".join(lines)):
            raise InputError(f"{path}: is there already, of other recordings or another split (expected: another OUTPUT_DIR)")
    output.mkdir(parents=True, exist_ok=True)
    for path, lines in lists.items():
        if not path.exists():
            save_text("".join(lines), path)
        print(f"{path}: {len(lines)} recordings")
    return 0


if __name__ == "__main__":
    run_command(main)
