"""The folder of one run: its checkpoints, which of them are kept, and that no other run comes between.

checkpoint-00012000.pt   the last few
milestone-00100000.pt    one every `milestone_every` steps
best.pt                  the one with the lowest validation loss
best-until-00012000.pt   the best.pt until that step: of the stages before, of other validation recordings, or not of this run
events.out.tfevents.*    TensorBoard's
"""

import contextlib
import io
import itertools
import os
import re
import secrets
import time
from pathlib import Path

import torch

from common.errors import InputError, describe
from common.files import NOT_SUPPORTED, save_atomically, save_text
from model.checkpoint import load_training_state
from training.same_data import changed_lists
from training.training_state import check_training_state

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes from training in one folder
    fcntl = None


CHECKPOINT = re.compile(r"checkpoint-([0-9]{8,})\.pt")
TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.tmp")  # as `common.files.replacing` names them
WEIGHTS_SUFFIXES = {".pt", ".safetensors"}
LOCK = ".lock"
LOCK_PATIENCE = 15  # seconds; the processes of a run that was killed a moment ago may take a few to end


class RunFolder:
    """The folder of one run, held by one process.

    Args:
        path: the folder; made by `open`.
        keep: how many of the last checkpoints are kept.
    """

    def __init__(self, path, keep):
        self.path = Path(path)
        self.keep = keep
        self._lock = None
        self.warnings = []  # lines on what `open` found
        self._made = []  # this folder and those above it that `open` made

    def open(self):
        """Makes the folder, or takes over that of an earlier part of the same run; one process alone can hold it.

        Raises:
            OSError: the folder cannot be made, or no file can be written there.
            InputError: it holds something else, or weights that the run cannot go on from, or a run that is still going on.
        """
        if self.path.is_dir() and not self.checkpoints():
            _refuse_strangers(self.path)
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        deadline = time.monotonic() + LOCK_PATIENCE
        while not self._take_lock():
            if time.monotonic() > deadline:
                raise InputError(f"{self.path}: another process is training there")
            time.sleep(0.2)
        for path in self.path.iterdir():
            if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()
        self._check_writable()

    def _take_lock(self):
        """Whether this process now holds the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = open(self.path / LOCK, "a")
        try:
            # A lock of the process, not of the file: data workers do not inherit it, and it ends with the process.
            if fcntl is not None:
                self._lock_file(lock)
            # The process that held it may have removed the file.
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(self.path / LOCK)):
                self._lock = lock
        except (BlockingIOError, FileNotFoundError):
            pass
        if self._lock is None:
            lock.close()
        return self._lock is not None

    def _lock_file(self, lock):
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            self.warnings = [f"warning: {self.path}: no locks on this drive, so nothing keeps two runs there apart (wanted: one alone)"]

    def _check_writable(self):
        probe = self.path / f".{secrets.token_hex(6)}.tmp"
        try:
            save_text("x", probe)
            probe.unlink()
        except OSError as error:
            raise OSError(error.errno, f"cannot save there: {os.strerror(error.errno)}", str(self.path)) from None

    def close(self):
        """Lets go of the folder, and removes it if `open` made it and nothing has been written there."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            if self._made and [path.name for path in self.path.iterdir()] == [LOCK]:
                (self.path / LOCK).unlink()
                for folder in self._made:
                    folder.rmdir()
        self._lock.close()
        self._lock = None

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

        Files of later steps are none of this run's, or damaged; they are neither counted nor removed.

        Raises:
            OSError: it cannot be written; those before are untouched.
        """
        path = self.path / f"checkpoint-{state['step']:08d}.pt"
        _write_state(state, path)
        if milestone:
            _write_state(state, self.path / f"milestone-{state['step']:08d}.pt")
        for old in [path for path in self.checkpoints() if _step_of(path) <= state["step"]][: -self.keep]:
            old.unlink()
        return path

    def save_best(self, state):
        """Writes `best.pt`. Raises OSError as `save` does."""
        _write_state(state, self.path / "best.pt")

    def has_best_of(self, state):
        """Whether `best.pt` is the one that a training state speaks of, or neither is there."""
        best = self.path / "best.pt"
        if not best.is_file():
            return state["best_validation_loss"] is None
        try:
            found = read_state(best)
        except (InputError, OSError):
            return False
        before, now = found.get("data"), state.get("data")  # missing in states from before there were any
        other_validation = before is not None and now is not None and "validation" in changed_lists(before, now)
        return found["best_validation_loss"] == state["best_validation_loss"] and not other_validation

    def set_best_aside(self, step):
        """Renames `best.pt`, so that another one can become the best.

        Returns:
            the new name, or None where there is no `best.pt`.

        Raises:
            OSError: it cannot be renamed.
        """
        best = self.path / "best.pt"
        if not best.is_file():
            return None
        names = (f"best-until-{step:08d}{suffix}.pt" for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))))
        kept = next(path for path in map(self.path.joinpath, names) if not path.exists())
        best.rename(kept)
        return kept.name

    def discard_after(self, path, step):
        """Removes the checkpoints after `path`, up to those of `step`: of a part of the run that went wrong."""
        for newer in self.checkpoints():
            if _step_of(path) < _step_of(newer) <= step:
                newer.unlink()


def read_state(path):
    """Reads a training state that a run can go on from.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is damaged or not a training state, or that of another step than its name says.
    """
    state = load_training_state(path)
    check_training_state(state, path)
    path = Path(path)
    if CHECKPOINT.fullmatch(path.name) and _step_of(path) != state["step"]:
        raise InputError(f"{path}: holds step {state['step']} (wanted: a name that says so, checkpoint-{state['step']:08d}.pt)")
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
