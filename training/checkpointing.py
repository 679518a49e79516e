"""The folder of one run, and resuming: its checkpoints, which of them are kept, and whether a run can go on from one.

checkpoint-00012000.pt   the last few
milestone-00100000.pt    one every `milestone_every` steps
best.pt                  the one with the lowest validation loss
events.out.tfevents.*    TensorBoard's
"""

import io
import os
import re
from pathlib import Path
from typing import Optional

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from common.errors import InputError, describe, shortened
from common.files import NOT_SUPPORTED, save_atomically
from common.validation import validating
from model.checkpoint import check_same, load_training_state
from model.config import parse_config

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes from training in one folder
    fcntl = None


CHECKPOINT = re.compile(r"checkpoint-([0-9]{8,})\.pt")
TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.tmp")  # as `common.files.replacing` names them
WEIGHTS_SUFFIXES = {".pt", ".safetensors"}
LOCK = ".lock"
NO_LONGER_THE_SAME_RUN = ("noise_schedule", "training.seed")  # beside network and mel


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

    def open(self):
        """Makes the folder, or takes over that of an earlier part of the same run; one process alone can hold it.

        Returns:
            list of lines on what is not as it should be.

        Raises:
            OSError: the folder cannot be made, or not be written.
            InputError: it holds weights that the run cannot go on from, or a run that is still going on.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        weights = sorted(path.name for path in self.path.iterdir() if path.suffix in WEIGHTS_SUFFIXES)
        if weights and not self.checkpoints():
            raise InputError(
                f"{self.path}: expected checkpoint-*.pt to go on from, or no weights, got '{weights[0]}', which a new run might overwrite; "
                "move the file, or choose another -l"
            )
        self._lock, warnings = open(self.path / LOCK, "a"), []
        try:
            # A lock of the process, not of the file: data workers do not inherit it, and it ends with the process.
            if fcntl is not None:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: another process is training there") from None
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            warnings = [f"warning: {self.path}: this drive has no locks, so nothing stops a second run from writing there"]
        for path in self.path.iterdir():
            if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()
        return warnings

    def close(self):
        """Lets go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def checkpoints(self):
        """Paths of the checkpoints that a run can go on from, oldest first; files with names of the user's own are not looked at."""
        if not self.path.is_dir():
            return []
        paths = [path for path in self.path.iterdir() if CHECKPOINT.fullmatch(path.name) and path.is_file()]
        return sorted(paths, key=_step_of)

    def newest(self, fits=lambda state: True):
        """The newest undamaged checkpoint.

        Args:
            fits: called with its state; refuses it by returning False.

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
            if fits(state):
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
    state, name = load_training_state(path), CHECKPOINT.fullmatch(Path(path).name)
    with validating(f"{path}: training cannot go on from it"):
        TrainingState.model_validate(state)
    if name and state["step"] != int(name[1]):
        raise InputError(f"{path}: expected step {int(name[1])}, as in its name, got step {state['step']}")
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


class _Entries(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Stability(_Entries):
    calm: bool
    n_skipped: NonNegativeInt
    skipped_in_a_row: NonNegativeInt
    recent: list[float]
    lowest: Optional[float]


class TrainingState(_Entries):
    """What is read of a training state beside `Trainer.load_state_dict`. What is optional here, older versions did not write."""

    step: NonNegativeInt
    n_updates: Optional[NonNegativeInt] = None
    position: NonNegativeInt
    n_rollbacks: NonNegativeInt
    stability: Stability
    best_validation_loss: Optional[float]
    config: str
    mel_statistics: Optional[str] = None
    schedules: Optional[dict[str, dict]] = None


def changes(state, config, path):
    """Compares the configuration of a checkpoint with the present one.

    Args:
        state: a training state.
        config: the present `Config`.
        path: the checkpoint, for messages.

    Returns:
        lines on what differs and may.

    Raises:
        InputError: a key differs that makes it another run; names it with both values.
    """
    found = parse_config(state["config"], f"{path} (configuration in the checkpoint)")
    check_same(found, config, path)
    changed = differences(found.model_dump(), config.model_dump())
    for key, old, new in changed:
        if key.startswith(NO_LONGER_THE_SAME_RUN):
            raise InputError(f"{path}: {key}: expected {old}, as in the checkpoint, got {new}; another run needs another -l")
    may = [change for change in changed if not change[0].startswith(("network.", "mel."))]
    return [f"changed since {Path(path).name}: {key} was {old}, is {new}" for key, old, new in may]


def differences(old, new):
    """List of (key, old value, new value) of what differs between two nested dictionaries; None stands for what one of them lacks."""
    old, new = _flat(old), _flat(new)
    return [(key, old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)]


def _flat(section, prefix=""):
    """Nested dictionaries, and lists of them, as one dictionary, with keys such as 'training.seed' and 'training.stages.1.n_steps'."""
    values = {}
    for key, value in section.items():
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value, 1)}
        values.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return values


def changed_schedules(state, trainer):
    """Lines on the noise schedules that differ from those of a training state."""
    before = state.get("schedules") or {}  # missing in states from before there were any
    now = {path: schedule.content for path, schedule in trainer.objective.schedules(trainer.step).items()}
    return [
        f"noise schedule {path} changed: {key} was {shortened(old)}, is {shortened(new)}"
        for path in now.keys() & before.keys()
        for key, old, new in differences(before[path], now[path])
    ]
