"""A run that was killed, stopped or damaged ends as if nothing had happened."""

import random
import re
import resource
import signal
import time
import zipfile

import pytest
import torch
from training_fixtures import (
    finish,
    kill,
    run,
    same,
    start,
    start_processes,
    train_command,
    train_to_end,
    wait_for,
    weights_of,
    write_run,
)

from model.checkpoint import load_training_state
from model.errors import InputError
from training.run_folder import RunFolder, read_state
from training.stability import StabilityGuard

N_STEPS = 16


def last_step(logdir):
    found = RunFolder(logdir, keep=3).checkpoints()
    return int(re.findall(r"\d+", found[-1].stem)[-1]) if found else -1


def train_with_kills(config, logdir, n_processes, kills, seed):
    """Trains to the end, killed `kills` times at random moments after ever later checkpoints."""
    rng = random.Random(seed)
    for i in range(kills):
        processes = start_processes(train_command, config, logdir, n_processes=n_processes)
        wait_for(lambda: last_step(logdir) >= i * 5 or not processes[0].is_alive())
        time.sleep(rng.random() * 0.2)
        kill(processes)
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


@pytest.mark.parametrize("number, n_processes", [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_signal_saves_and_exits_cleanly(tmp_path, number, n_processes):
    """Fails if a signal loses steps, leaves a traceback, or if the run cannot go on from where it stopped."""
    config, logdir = write_run(tmp_path, training__n_steps=100_000, training__save_every=50_000), tmp_path / "log"
    process = start(["-c", config, "-l", logdir, "--nproc", n_processes])
    wait_for(lambda: "step 5 " in process.stdout.readline())
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert errors == ""
    stopped_at = int(re.search(rf"stopped by {number.name} at step (\d+)", output).group(1))
    assert last_step(logdir) == stopped_at >= 5

    config = write_run(tmp_path, training__n_steps=stopped_at + 3)
    train_to_end(config, logdir, n_processes=n_processes)
    assert last_step(logdir) == stopped_at + 3


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
    assert f"warning: {newest}: the checkpoint is damaged" in train_to_end(config, tmp_path / "damaged")
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
    status, _, errors = run(["-c", config, "-l", tmp_path / "log", "--nproc", 1])
    assert (status, errors) == (0, "")
    config = write_run(tmp_path, training__n_steps=10)
    status, output, errors = run(["-c", config, "-l", tmp_path / "log", "--nproc", 1])
    assert (status, errors) == (0, "")
    assert "going on from" in output and "training.n_steps was 5, is 10" in output
    assert "step 5 " not in output and "step 10 " in output
