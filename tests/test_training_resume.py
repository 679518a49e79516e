"""A run that was killed, stopped or damaged ends as if nothing had happened."""

import contextlib
import errno
import os
import random
import re
import resource
import signal
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from model.checkpoint import load_training_state
from model.config import load_config
from tests.processes import TRAINING, children, finish, kill, run_to_end, start, start_processes, wait_for, wait_for_line
from tests.training_fixtures import same, speech, train_command, train_to_end, weights_of, write_corpus, write_run
from training import examples
from training.loop import _is_better
from training.run_folder import RunFolder, read_state
from training.stability import StabilityGuard
from training.stop_signal import StopSignal

N_STEPS = 16


def last_step(logdir):
    found = RunFolder(logdir, keep=3).checkpoints()
    return int(re.findall(r"\d+", found[-1].stem)[-1]) if found else -1


def train_with_kills(config, logdir, n_processes, kills, seed):
    """Trains to the end, killed `kills` times at random moments after ever later checkpoints; one of the kills must hit a run."""
    rng, n_steps, statuses = random.Random(seed), load_config(config).training.n_steps, []
    for i in range(kills):
        processes = start_processes(train_command, config, logdir, n_processes=n_processes)
        wait_for(lambda: last_step(logdir) >= i * n_steps // (kills + 1) or not processes[0].is_alive())
        time.sleep(rng.random() * 0.2)
        kill(processes)
        statuses.append(processes[0].exitcode)
    assert -signal.SIGKILL in statuses, "each run had ended before it was to be killed"
    train_to_end(config, logdir, n_processes=n_processes)


@pytest.mark.parametrize(
    "n_processes, precision, workers",
    [(1, "fp32", (0, 2)), (1, "bf16", (0, 0)), (2, "fp32", (0, 1)), (2, "bf16", (0, 0))],
)
def test_killed_run_ends_with_the_same_state(tmp_path, n_processes, precision, workers):
    """Fails if any part of the state is not saved, or if the data depends on the number of workers or on the start."""
    changes = {"training__n_steps": N_STEPS, "training__precision": precision, "training__validate_every": 8}
    config = write_run(tmp_path, **changes, data__n_workers=workers[0])
    train_to_end(config, tmp_path / "whole", n_processes=n_processes)
    config = write_run(tmp_path, **changes, data__n_workers=workers[1])
    train_with_kills(config, tmp_path / "killed", n_processes, kills=3, seed=n_processes)
    for name in (f"checkpoint-{N_STEPS:08d}.pt", "best.pt"):
        whole, killed = weights_of(tmp_path / "whole" / name), weights_of(tmp_path / "killed" / name)
        assert [key for key in whole if not same(whole[key], killed[key])] == []


@pytest.mark.parametrize("number, n_processes", [(signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGHUP, 2)])
def test_signal_saves_and_exits_cleanly(tmp_path, number, n_processes):
    """Fails if a signal loses steps, leaves a traceback, or if the run cannot go on from where it stopped."""
    config, logdir = write_run(tmp_path, training__n_steps=100_000, training__save_every=50_000), tmp_path / "log"
    process = start(*TRAINING, "-c", config, "-l", logdir, "--nproc", n_processes)
    wait_for_line(process, "step 5 ")
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert errors == ""
    stopped_at = int(re.search(rf"stopped by {number.name} at step (\d+)", output).group(1))
    assert last_step(logdir) == stopped_at >= 5

    config = write_run(tmp_path, training__n_steps=stopped_at + 3)
    train_to_end(config, logdir, n_processes=n_processes)
    assert last_step(logdir) == stopped_at + 3


def test_ignored_signal_stays_ignored():
    """Fails if a run under nohup ends with the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop_signal:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_signal.check() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_signal.check() == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_finished_run_is_left_alone(tmp_path):
    config, logdir = write_run(tmp_path), tmp_path / "log"
    train_to_end(config, logdir)
    before = {path: path.read_bytes() for path in logdir.glob("*.pt")}
    assert "nothing to do" in train_to_end(config, logdir)
    assert before == {path: path.read_bytes() for path in logdir.glob("*.pt")}


def state_at(step):
    """A training state of no network at all, but of the right types."""
    return {
        **{name: {} for name in ("network", "optimizer", "lr_scheduler", "scaler", "versions")},
        **{"step": step, "position": 4 * step, "n_rollbacks": 0, "best_validation_loss": None, "config": "{}"},
        "ema": {"weight": torch.full((50,), float(step))},
        "stability": StabilityGuard(5, 3.0).state_dict(),
        "rng": {"cpu": torch.get_rng_state(), "cuda": None},
    }


@pytest.fixture
def folder(tmp_path):
    """A run's folder with checkpoints of steps 1, 2 and 3."""
    folder = RunFolder(tmp_path / "log", keep=3)
    folder.open()
    for step in (1, 2, 3):
        folder.save(state_at(step))
    yield folder
    folder.close()


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "last byte gone": lambda content: content[:-1],
    "flipped byte in the weights": lambda content: flipped(content, content.index(b"\x00\x00\x40\x40" * 8)),
    "something else": lambda content: b"not a checkpoint at all",
}


def flipped(content, position, bit=4):
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_passed_over(folder, damage):
    """Fails if a damaged file is trusted: PyTorch itself loads one with a flipped byte without a word."""
    newest = folder.checkpoints()[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    path, state, warnings = folder.newest()
    assert state["step"] == 2
    assert len(warnings) == 1 and str(newest) in warnings[0] and "\n" not in warnings[0]


def test_no_flipped_bit_goes_unnoticed(folder):
    """Wherever the bit is: either the file is refused, or what is read is what was written."""
    path = folder.checkpoints()[-1]
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        path.write_bytes(flipped(content, position, position % 8))
        try:
            assert same(read_state(path), state_at(3)), position
        except InputError:
            refused += 1
    assert refused > 0


def test_a_drive_without_locks_is_trained_on_with_a_warning(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    folder = RunFolder(tmp_path / "log", keep=3)
    folder.open()
    assert len(folder.warnings) == 1 and "log: no locks on this drive" in folder.warnings[0]
    folder.close()


def test_all_checkpoints_damaged_is_an_error(folder):
    """Fails if the run silently begins anew."""
    for path in folder.checkpoints():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 3 checkpoints can be used"):
        folder.newest()


def test_damaged_checkpoint_in_a_real_run(tmp_path):
    """The run says which file is damaged, and ends as it would have."""
    config = write_run(tmp_path)
    train_to_end(config, tmp_path / "whole")
    train_to_end(config, tmp_path / "damaged")
    newest = tmp_path / "damaged" / "checkpoint-00000020.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert f"warning: {newest}: not a checkpoint, or a damaged one" in train_to_end(config, tmp_path / "damaged")
    assert same(weights_of(newest), weights_of(tmp_path / "whole" / newest.name))


def test_old_checkpoints_go_and_milestones_stay(tmp_path):
    config = write_run(tmp_path, training__keep_checkpoints=2, training__milestone_every=6, training__validate_every=7)
    train_to_end(config, tmp_path / "log")
    assert sorted(path.name for path in (tmp_path / "log").glob("*.pt")) == [
        "best.pt",
        "checkpoint-00000018.pt",
        "checkpoint-00000020.pt",
        "milestone-00000006.pt",
        "milestone-00000012.pt",
        "milestone-00000018.pt",
    ]


def test_best_is_the_one_with_the_lowest_validation_loss(tmp_path):
    config = write_run(tmp_path, training__validate_every=5, training__learning_rate=0.3, training__final_learning_rate=0.3)
    output = train_to_end(config, tmp_path / "log")
    losses = {int(step): float(loss) for step, loss in re.findall(r"step (\d+)  validation loss ([\d.]+)", output)}
    best = load_training_state(tmp_path / "log" / "best.pt")
    assert best["step"] == min(losses, key=losses.get)
    assert best["best_validation_loss"] == pytest.approx(min(losses.values()), abs=1e-4)


@pytest.mark.parametrize(
    "loss, best, better",
    [
        (0.5, None, True),
        (0.5, 0.6, True),
        (0.6, 0.5, False),
        (0.5, 0.5, False),
        (0.5, float("nan"), True),
        (0.5, float("inf"), True),
        (float("nan"), None, False),
        (float("nan"), 0.5, False),
        (float("nan"), float("nan"), False),
        (float("inf"), None, False),
    ],
)
def test_loss_that_is_not_finite_is_never_the_best(loss, best, better):
    """Fails if one such loss is kept as the best for ever: no comparison with NaN is true."""
    assert _is_better(loss, best) is better


USERS_OWN = ["checkpoint-best.pt", "checkpoint-00000005 copy.pt", "checkpoint-final.pt", "checkpoint-5.pt", "xcheckpoint-00000009.pt"]


def test_only_numbered_files_are_checkpoints(folder):
    """Fails if a file of the user's is resumed from, counted among those kept, or removed."""
    for name in USERS_OWN:
        (folder.path / name).write_bytes(folder.checkpoints()[0].read_bytes())
    (folder.path / "checkpoint-00000009.pt").mkdir()
    assert [path.name for path in folder.checkpoints()] == [f"checkpoint-{step:08d}.pt" for step in (1, 2, 3)]
    assert folder.newest()[1]["step"] == 3
    folder.save(state_at(4))
    folder.discard_after(folder.checkpoints()[0], 4)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-00000002.pt"]
    assert all((folder.path / name).exists() for name in USERS_OWN)


def test_steps_of_nine_digits_are_the_newest(folder):
    """Fails if names are compared as text."""
    folder.save(state_at(99_999_999))
    folder.save(state_at(100_000_000))
    assert folder.newest()[1]["step"] == 100_000_000
    folder.discard_after(folder.checkpoints()[-2], 100_000_000)
    assert folder.newest()[1]["step"] == 99_999_999


def test_saving_keeps_what_it_wrote(tmp_path):
    """Fails if pruning removes the new checkpoint and keeps a damaged one, or one of another run, with a larger number."""
    with contextlib.closing(RunFolder(tmp_path / "log", keep=1)) as folder:
        folder.open()
        later = folder.path / "checkpoint-00000099.pt"
        for content in (b"damaged", folder.save(state_at(6)).read_bytes()):
            later.write_bytes(content)
            folder.save(state_at(10))
            folder.discard_after(folder.path / "checkpoint-00000010.pt", step=20)
            assert [path.name for path in folder.checkpoints()] == ["checkpoint-00000010.pt", later.name]
            assert folder.newest()[1]["step"] == 10
        assert later.read_bytes() == content


def test_checkpoint_under_the_name_of_another_step_is_passed_over(folder):
    """Fails if each call trains the same steps again: the file would stay the newest for ever."""
    wrong = folder.checkpoints()[-1].rename(folder.path / "checkpoint-00000099.pt")
    path, state, lines = folder.newest()
    assert (path.name, state["step"]) == ("checkpoint-00000002.pt", 2)
    assert lines == [f"warning: {wrong}: holds step 3 (wanted: a name that says so, checkpoint-00000003.pt); the one before is used"]


def test_only_leftovers_of_saving_are_removed(folder):
    """Fails if a folder or file of the user's own ends the run or is lost."""
    folder.close()
    (folder.path / ".x.tmp").mkdir()
    (folder.path / ".0123456789ab.tmp").mkdir()
    (folder.path / ".notes.tmp").write_text("mine")
    (folder.path / ".ba9876543210.tmp").write_text("left by a kill")
    folder.open()
    assert sorted(path.name for path in folder.path.glob(".*.tmp")) == [".0123456789ab.tmp", ".notes.tmp", ".x.tmp"]


def test_folder_that_cannot_be_written_is_refused_at_the_start(folder):
    """Fails if a resumed run finds out only when it saves."""
    folder.close()
    before = sorted(folder.path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot save there: File too large") as error:
            folder.open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(folder.path)
    assert sorted(folder.path.iterdir()) == before


def test_folder_in_which_nothing_was_saved_is_removed(tmp_path):
    """Fails if a refused run leaves an empty folder behind, or removes one that it did not make."""
    (tmp_path / "users").mkdir()
    for name in ("logs/new", "users"):
        folder = RunFolder(tmp_path / name, keep=3)
        folder.open()
        folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["users"]
    folder = RunFolder(tmp_path / "logs" / "new", keep=3)
    folder.open()
    folder.save(state_at(1))
    folder.close()
    assert folder.newest()[1]["step"] == 1


def with_validation(digest):
    lists = {name: {"digest": digest, "recordings": 2, "seconds": 1.0} for name in ("training", "validation")}
    return {"data": lists}


@pytest.mark.parametrize(
    "best, own",
    [
        (None, False),
        ({"best_validation_loss": 0.5, **with_validation("a")}, True),
        ({"best_validation_loss": 0.5}, True),  # from before there was a digest
        ({"best_validation_loss": 0.4, **with_validation("a")}, False),
        ({"best_validation_loss": 0.5, **with_validation("b")}, False),
        ("damaged", False),
    ],
)
def test_best_is_compared_with_the_state(folder, best, own):
    """Fails if a `best.pt` of other data or of another run is taken for this run's, and so is replaced or never beaten."""
    if best == "damaged":
        (folder.path / "best.pt").write_bytes(b"")
    elif best:
        folder.save_best({**state_at(2), **best})
    assert folder.has_best_of({**state_at(3), "best_validation_loss": 0.5, **with_validation("a")}) is own


def test_foreign_best_is_kept_and_beaten(tmp_path):
    """A real run: fails if another run's `best.pt` is lost, or if this run never writes its own."""
    logdir, best = tmp_path / "log", tmp_path / "log" / "best.pt"
    changes = {"training__validate_every": 5}
    train_to_end(write_run(tmp_path, training__n_steps=5, **changes), logdir)
    torch.save({**load_training_state(best), "best_validation_loss": 1e-6}, best)
    foreign = best.read_bytes()
    output = train_to_end(write_run(tmp_path, training__n_steps=10, **changes), logdir)
    assert "best.pt is not that of checkpoint-00000005.pt: it is kept as best-until-00000005.pt, and the best loss" in output
    assert (logdir / "best-until-00000005.pt").read_bytes() == foreign
    assert load_training_state(best)["step"] == 10

    best.unlink()
    output = train_to_end(write_run(tmp_path, training__n_steps=15, **changes), logdir)
    assert "warning: the best.pt of checkpoint-00000010.pt is not there" in output
    assert load_training_state(best)["step"] == 15


def test_best_set_aside_twice_is_lost_neither_time(folder):
    for loss in (0.5, 0.4):
        folder.save_best({**state_at(3), "best_validation_loss": loss})
        folder.set_best_aside(3)
    kept = [read_state(folder.path / f"best-until-00000003{suffix}.pt") for suffix in ("", "-2")]
    assert [state["best_validation_loss"] for state in kept] == [0.5, 0.4]
    assert folder.set_best_aside(3) is None


@pytest.mark.parametrize("name", ["best.pt", "milestone-00000010.pt", "checkpoint-best.pt", "released.safetensors"])
def test_folder_of_weights_alone_is_refused(tmp_path, name):
    """Fails if a run begins anew there and writes over `best.pt`."""
    logdir, log = tmp_path / "log", tmp_path / "output"
    logdir.mkdir()
    (logdir / ".lock").touch()
    (logdir / name).write_bytes(b"weights")
    assert finish(start_processes(train_command, write_run(tmp_path), logdir, log=log)) == [2]
    assert log.read_text().startswith(f"error: {logdir}: holds '{name}' but no checkpoint-*.pt")
    assert log.read_text().count("\n") == 1 and "another -l" in log.read_text()
    assert sorted(path.name for path in logdir.iterdir()) == sorted([".lock", name])


def other_voice(seed):
    """As long as `speech(0.3, seed)`, and louder."""
    return np.clip(8 * speech(0.3, seed), -1, 1)


def test_changed_data_is_said_and_judged_anew(tmp_path):
    """The same names and lengths, other recordings. Fails if `best.pt` or the mel statistics stay those of the old ones."""
    logdir = tmp_path / "log"
    changes = {"training__validate_every": 5, "training__n_steps": 10}
    train_to_end(write_run(tmp_path, **changes), logdir)
    before = load_training_state(logdir / "checkpoint-00000010.pt")
    old_best = (logdir / "best.pt").read_bytes()
    # As if nothing could be better any more, and as if the guard had seen the end of a long run.
    torch.save({**before, "best_validation_loss": 1e-6}, logdir / "checkpoint-00000010.pt")

    write_corpus(tmp_path, {f"train_{i}": other_voice(i) for i in range(6)})
    write_corpus(tmp_path, {"validation_0": speech(0.6, 10)}, "validation")
    config = write_run(tmp_path, **{**changes, "training__n_steps": 20})
    output = train_to_end(config, logdir)
    assert "training data changed: 6 recordings of 0.00 h, were 6 of 0.00 h: " in output.replace("were 6 recordings", "were 6")
    assert "validation data changed: 1 recordings of 0.00 h, were 2 " in output.replace("were 2 recordings", "were 2")
    assert (logdir / "best-until-00000010.pt").read_bytes() == old_best
    state, best = (load_training_state(logdir / name) for name in ("checkpoint-00000020.pt", "best.pt"))
    assert best["step"] > 10 and best["best_validation_loss"] > 1e-6
    assert state["mel_statistics"] != before["mel_statistics"]
    assert len(state["stability"]["recent"]) == 10  # updates since the change

    train_to_end(write_run(tmp_path, **{**changes, "training__n_steps": 25}), logdir)
    again = load_training_state(logdir / "checkpoint-00000025.pt")
    assert len(again["stability"]["recent"]) == 15
    assert again["mel_statistics"] == state["mel_statistics"]


def test_moved_data_is_the_same_data(tmp_path):
    """Fails if another folder or order counts as a change, or if a checkpoint from before there was a digest is refused."""
    (tmp_path / "here").mkdir(), (tmp_path / "there").mkdir()
    logdir, newest = tmp_path / "log", tmp_path / "log" / "checkpoint-00000005.pt"
    train_to_end(write_run(tmp_path / "here", training__n_steps=5), logdir)
    config = write_run(tmp_path / "there", training__n_steps=6)
    lines = (tmp_path / "there" / "train.txt").read_text().splitlines()
    (tmp_path / "there" / "train.txt").write_text("\n".join(reversed(lines)))
    assert "data changed" not in train_to_end(config, logdir)
    (logdir / "checkpoint-00000006.pt").unlink()
    old = load_training_state(newest)
    del old["data"]
    torch.save(old, newest)
    output = train_to_end(config, logdir)
    assert "going on from" in output and "data changed" not in output


def limited_train_command(limit, *arguments):
    """Trains on a disk where no file can grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    train_command(*arguments)


@pytest.mark.parametrize("on_failed_save, last_logged", [("stop", 10), ("continue", 20)])
def test_disk_full(tmp_path, on_failed_save, last_logged):
    """Fails if a failed save damages the checkpoint before it, passes in silence, or does not do as configured."""
    logdir, log = tmp_path / "log", tmp_path / "output"
    config = write_run(tmp_path, training__n_steps=5, training__on_failed_save=on_failed_save)
    train_to_end(config, logdir)
    good = (logdir / "checkpoint-00000005.pt").read_bytes()
    config = write_run(tmp_path, training__on_failed_save=on_failed_save)
    assert finish(start_processes(limited_train_command, len(good) // 2, config, logdir, log=log)) == [2]
    output = log.read_text()
    assert f"step {last_logged} " in output and f"step {last_logged + 5} " not in output
    assert output.splitlines()[-1].startswith("error: ") and "cannot save: File too large" in output
    assert "Traceback" not in output
    assert (logdir / "checkpoint-00000005.pt").read_bytes() == good
    assert not list(logdir.glob(".*.tmp"))

    train_to_end(config, logdir)  # once there is room again
    assert last_step(logdir) == 20


def test_first_checkpoint_must_be_written(tmp_path):
    """Fails if a run trains with nothing to go back to."""
    logdir, log = tmp_path / "log", tmp_path / "output"
    config = write_run(tmp_path, training__on_failed_save="continue")
    assert finish(start_processes(limited_train_command, 10_000, config, logdir, log=log)) == [2]
    lines = log.read_text().splitlines()
    assert lines[-1] == f"error: {logdir / 'checkpoint-00000000.pt'}: cannot save: File too large"
    assert not lines[:-1] or (len(lines) == 2 and "TensorBoard's files cannot be written any more" in lines[0])


def train_command_without(output, *arguments):
    """Trains with nowhere to print: a full disk, a pipe that nobody reads any more, or no standard output and error at all."""
    if output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif output == "pipe":
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
        sys.stdout = open(1, "w", closefd=False)  # the one for a file would look for its position
    else:
        os.close(1), os.close(2)
        sys.stdout = sys.stderr = None  # as Python begins then
    train_command(*arguments)


@pytest.mark.parametrize("output", ["full", "pipe", "closed"])
def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path, output):
    """Fails if a line of the log ends a run, or counts as a save that failed."""
    logdir, log = tmp_path / "log", tmp_path / "output"
    config = write_run(tmp_path, training__n_steps=10, training__validate_every=5)
    assert finish(start_processes(train_command_without, output, config, logdir, log=log)) == [0]
    assert log.read_text() == ""
    assert read_state(logdir / "checkpoint-00000010.pt")["step"] == 10 and (logdir / "best.pt").exists()


def start_with_workers(tmp_path, target=train_command, *arguments):
    """Starts an endless run with two data workers; returns its process and its log once it has saved, and the workers' ids."""
    config = write_run(tmp_path, training__n_steps=100_000, data__n_workers=2)
    log, logdir = tmp_path / "output", tmp_path / "log"
    processes = start_processes(target, *arguments, config, logdir, log=log)
    wait_for(lambda: (logdir / "checkpoint-00000005.pt").exists())
    return processes, log, children(processes[0].pid)


def test_killed_data_worker_ends_the_run(tmp_path):
    """Fails if the process waits for its other workers for ever, or shows a traceback."""
    processes, log, workers = start_with_workers(tmp_path)
    os.kill(workers[0], signal.SIGKILL)
    assert finish(processes, timeout=60) == [2]
    assert re.fullmatch(
        r"error: process 0: a data worker (is killed by signal: Killed|exited unexpectedly) \(wanted: .*shared memory.*data.n_workers 0\)",
        log.read_text().splitlines()[-1],
    )
    assert "Traceback" not in log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert last_step(tmp_path / "log") >= 5


def hasty_train_command(*arguments):
    examples.SHUTDOWN_SECONDS = 0.5
    train_command(*arguments)


def test_data_worker_that_hangs_is_killed(tmp_path):
    """Fails if the end of a run waits for a worker that will not end: they ignore SIGTERM."""
    processes, log, workers = start_with_workers(tmp_path, hasty_train_command)
    os.kill(workers[0], signal.SIGSTOP)
    os.kill(processes[0].pid, signal.SIGTERM)
    assert finish(processes, timeout=60) == [0]
    assert "stopped by SIGTERM" in log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_no_shared_memory_for_data_workers(tmp_path):
    """As with a small /dev/shm: the batch, 2 MB, is larger than a file may be, and the checkpoints are not."""
    logdir, log = tmp_path / "log", tmp_path / "output"
    config = write_run(tmp_path, data__n_workers=1, data__segment_frames=240, training__batch_size=100)
    assert finish(start_processes(limited_train_command, 1_000_000, config, logdir, log=log), timeout=60) == [2]
    last = log.read_text().splitlines()[-1]
    assert last.startswith("error: process 0: a data worker was given no shared memory (wanted: ") and "data.n_workers 0" in last
    assert "Traceback" not in log.read_text()


def wrong_step(state):
    state["step"] = "five"


def wrong_guard(state):
    state["stability"]["recent"] = {"a": 1}


def no_guard(state):
    del state["stability"]


def wrong_scheduler(state):
    state["lr_scheduler"]["last_epoch"] = "five"


def wrong_optimizer(state):
    state["optimizer"]["state"] = dict.fromkeys(state["optimizer"]["state"], 1.0)


def other_optimizer(state):
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


def wrong_random_state(state):
    state["rng"]["cpu"] = [1, 2, 3]


def wrong_statistics(state):
    state["mel_statistics"] = "{}"


def wrong_weights(state):
    state["network"] = {"weight": 1}


WRONG = [
    wrong_step, wrong_guard, no_guard, wrong_scheduler, wrong_optimizer, other_optimizer, wrong_random_state, wrong_statistics,
    wrong_weights,
]  # fmt: skip


@pytest.fixture(scope="module")
def five_steps(tmp_path_factory):
    """Configuration of a run of ten steps, and its checkpoint of step 5."""
    folder = tmp_path_factory.mktemp("five")
    train_to_end(write_run(folder, training__n_steps=5), folder / "log")
    return write_run(folder, training__n_steps=10), folder / "log" / "checkpoint-00000005.pt"


@pytest.mark.parametrize("spoil", WRONG)
def test_checkpoint_with_wrong_entries(five_steps, tmp_path, spoil):
    """Fails if what a file holds in place of an entry becomes a traceback, then or at the first step."""
    config, checkpoint = five_steps
    state = load_training_state(checkpoint)
    spoil(state)
    logdir, log = tmp_path / "log", tmp_path / "output"
    logdir.mkdir()
    torch.save(state, logdir / checkpoint.name)
    assert finish(start_processes(train_command, config, logdir, log=log)) == [2]
    assert log.read_text().count("\n") == 1 and log.read_text().startswith("error: ")
    assert str(logdir / checkpoint.name) in log.read_text()


def test_checkpoint_with_code_is_not_run(tmp_path):
    """Fails if a checkpoint is unpickled freely: then the file below would run its payload."""
    path = tmp_path / "checkpoint-00000001.pt"
    torch.save({"config": "{}", "ema": {}, "step": Payload(tmp_path / "owned")}, path)
    with pytest.raises(InputError, match="more than plain tensors"):
        read_state(path)
    assert not (tmp_path / "owned").exists()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_checksums_are_written(folder):
    """The damage tests rest on these."""
    with zipfile.ZipFile(folder.checkpoints()[0]) as archive:
        assert all(info.CRC for info in archive.infolist() if info.file_size)


def test_run_script_resumes(tmp_path):
    """The real command, twice: the second goes on with the first."""
    config = write_run(tmp_path, training__n_steps=5)
    result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 1)
    assert (result.returncode, result.stderr) == (0, "")
    config = write_run(tmp_path, training__n_steps=10)
    result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 1)
    assert (result.returncode, result.stderr) == (0, "")
    assert "going on from" in result.stdout and "training.n_steps was 5, is 10" in result.stdout
    assert "step 5 " not in result.stdout and "step 10 " in result.stdout
