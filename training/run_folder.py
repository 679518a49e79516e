"""The folder of one run: its checkpoints, which of them are kept, and that no other run comes between.

checkpoint-00012000.pt   the last few
milestone-00100000.pt    one every `milestone_every` steps
best.pt                  the one with the lowest validation loss
best-until-00012000.pt   the same for the validation recordings that there were until then
events.out.tfevents.*    TensorBoard's
"""

import fcntl
import io
import os
import re
import shutil
import time
import zipfile
import zlib
from pathlib import Path

import torch

from model.checkpoint import load_training_state
from model.errors import InputError, describe
from model.files import save_atomically
from training.training_state import check_training_state

CHECKPOINT = re.compile(r"checkpoint-([0-9]{8,})\.pt")
WEIGHTS_SUFFIXES = {".pt", ".safetensors"}
LOCK = ".lock"
LOCK_PATIENCE = 15  # seconds; the processes of a run that was killed a moment ago may take a few to end


class RunFolder:
    """Args:
    path: the folder; made by `open`.
    keep: how many of the last checkpoints are kept.
    """

    def __init__(self, path, keep):
        self.path = Path(path)
        self.keep = keep
        self._lock = None

    def open(self):
        """Makes the folder, or takes over that of an earlier part of the same run; one process alone can hold it.

        Raises:
            OSError: the folder cannot be made or written.
            InputError: it holds something else, or weights that the run cannot go on from, or a run that is still going on.
        """
        if self.path.is_dir() and not self.checkpoints():
            _refuse_strangers(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / LOCK, "a")
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                # A lock of the process, not of the file: data workers do not inherit it, and it ends with the process.
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(f"{self.path}: another process is training there") from None
                time.sleep(0.2)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()

    def close(self):
        if self._lock is not None:
            self._lock.close()

    def checkpoints(self):
        """Paths of the checkpoints that a run can go on from, oldest first; files with names of the user's own are not looked at."""
        if not self.path.is_dir():
            return []
        paths = [path for path in self.path.iterdir() if CHECKPOINT.fullmatch(path.name) and path.is_file()]
        return sorted(paths, key=_step_of)

    def newest(self, wanted=lambda state: True):
        """The newest undamaged checkpoint.

        Args:
            wanted: called with its state; refuses it by returning False.

        Returns:
            path and state, or None and None where there is none; and a list of lines about those that are damaged.

        Raises:
            InputError: there are checkpoints, but all are damaged.
        """
        damaged = []
        paths = self.checkpoints()
        for path in reversed(paths):
            try:
                state = read_state(path)
            except (InputError, OSError) as error:
                damaged.append(describe(error))
                continue
            if wanted(state):
                return path, state, [f"warning: {line}; the one before is used" for line in damaged]
        if damaged and len(damaged) == len(paths):
            raise InputError(f"{self.path}: none of the {len(paths)} checkpoints can be used; the newest: {damaged[0]}")
        return None, None, damaged

    def save(self, state, milestone=False):
        """Writes a checkpoint durably, then removes the oldest beyond `keep`; returns its path.

        Raises:
            OSError: it cannot be written; those before are untouched.
        """
        path = self.path / f"checkpoint-{state['step']:08d}.pt"
        _write_state(state, path)
        if milestone:
            _write_state(state, self.path / f"milestone-{state['step']:08d}.pt")
        for old in self.checkpoints()[: -self.keep]:
            old.unlink()
        return path

    def save_best(self, state):
        """Writes `best.pt`. Raises OSError as `save` does."""
        _write_state(state, self.path / "best.pt")

    def keep_best(self, step):
        """Gives `best.pt` a second name, which stays when another one becomes the best.

        Returns:
            the name, or None where there is no `best.pt`, or the name is taken already.

        Raises:
            OSError: it cannot be written.
        """
        best, kept = self.path / "best.pt", self.path / f"best-until-{step:08d}.pt"
        if not best.is_file() or kept.exists():
            return None
        try:
            os.link(best, kept)
        except OSError:  # not every file system has links
            save_atomically(lambda temporary: shutil.copyfile(best, temporary), kept)
        return kept.name

    def discard_after(self, path):
        """Removes the checkpoints newer than `path`, those of a part of the run that went wrong."""
        for newer in self.checkpoints():
            if _step_of(newer) > _step_of(path):
                newer.unlink()


def read_state(path):
    """Reads a training state after checking every byte of it against the checksums in the file.

    PyTorch writes checksums but does not look at them, and reads fields of the archive that no checksum covers. So it is given
    a fresh archive of what was checked.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is damaged or not a training state.
    """
    checked = io.BytesIO()
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive, zipfile.ZipFile(checked, "w") as copy:
                for entry in archive.infolist():
                    copy.writestr(entry.filename, archive.read(entry))
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError, OSError):
            # A flipped byte in the table of contents leads anywhere.
            raise InputError(f"{path}: the checkpoint is damaged") from None
    checked.seek(0)
    state = load_training_state(path, checked)
    check_training_state(state, path)
    return state


def _step_of(path):
    return int(CHECKPOINT.fullmatch(path.name)[1])


def _write_state(state, path):
    # In memory first: PyTorch reports a full disk as an internal error, without the file's name.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        save_atomically(lambda temporary: temporary.write_bytes(buffer.getbuffer()), path)
    except OSError as error:
        raise OSError(error.errno, f"cannot save: {os.strerror(error.errno)}", str(path)) from None


def _refuse_strangers(folder):
    """A folder without checkpoints is a run's that has just begun if there is a lock in it, or TensorBoard's files, but no weights."""
    names = sorted(path.name for path in folder.iterdir())
    weights = [name for name in names if Path(name).suffix in WEIGHTS_SUFFIXES]
    if weights:
        raise InputError(
            f"{folder}: holds '{weights[0]}' but no checkpoint-*.pt to go on from, and a new run would write over what is there "
            "(wanted: another -l, or the file moved to another folder)"
        )
    ours = [name for name in names if name == LOCK or name.startswith("events.out.tfevents")]
    if names and not ours:
        raise InputError(f"{folder}: holds '{names[0]}' but no training run (wanted: a new folder, or that of this run)")
