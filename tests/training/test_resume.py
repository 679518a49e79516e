"""A run that was killed or stopped ends as if nothing had happened. WAVEGRAD_KILLS=50 kills it so many times."""

import os
import random
import re
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.config import load_config
from tests.processes import finish, kill, start_processes, wait_for
from tests.training_fixtures import last_step, same, train_command, train_to_end, weights_of, write_run

ADVERSARIAL = {"windows": [64, 32], "periods": [2, 3], "channels": 4}
STAGES = [
    {"n_steps": 5},
    {"n_steps": 6, "segment_frames": 30, "infer_grad": {"noise_schedule": "3.json", "every": 2, "adversarial": ADVERSARIAL}},
    {"n_steps": 4, "batch_size": 2},
]
N_STEPS, N_KILLS = 15, int(os.environ.get("WAVEGRAD_KILLS", 3))


def train_with_kills(config, logdir, n_processes, kills, seed):
    """Trains to the end, killed `kills` times at random moments after ever later checkpoints; one of the kills must hit a run."""
    rng, n_steps, statuses = random.Random(seed), load_config(config).training.n_steps, []
    for i in range(kills):
        processes = start_processes(train_command, config, logdir, n_processes=n_processes)
        if i % 4 < 3:  # else at any moment of the start
            wait_for(lambda: last_step(logdir) >= i * n_steps // (kills + 1) or not processes[0].is_alive())
        time.sleep(rng.random() * 0.2)
        kill(processes)
        statuses.append(processes[0].exitcode)
    assert -signal.SIGKILL in statuses, "each run had ended before it was to be killed"
    train_to_end(config, logdir, n_processes=n_processes)


@pytest.mark.parametrize("n_processes, precision, workers", [(1, "fp32", (0, 2)), (2, "bf16", (1, 0))])
def test_killed_run_ends_with_the_same_state(tmp_path, n_processes, precision, workers):
    """Through stages, InferGrad and discriminators. Fails if any part of the state is not saved, or if the data depends on the workers."""
    changes = {"n_steps": N_STEPS, "stages": STAGES, "precision": precision, "validate_every": 4, "save_every": 1}
    train_to_end(write_run(tmp_path, **changes, data__n_workers=workers[0]), tmp_path / "whole", n_processes)
    config = write_run(tmp_path, **changes, data__n_workers=workers[1])
    train_with_kills(config, tmp_path / "killed", n_processes, N_KILLS, seed=n_processes)
    for name in (f"checkpoint-{N_STEPS:08d}.pt", "best.pt"):
        whole, killed = weights_of(tmp_path / "whole" / name), weights_of(tmp_path / "killed" / name)
        assert [key for key in whole if not same(whole[key], killed[key])] == [] and "adversary" in whole
    logged = [event.step for event in EventAccumulator(str(tmp_path / "killed")).Reload().Scalars("validation/loss")]
    assert logged == sorted(set(logged))  # a step that came again is shown once


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_saves_and_exits_cleanly(tmp_path, number):
    """Fails if a signal loses steps, leaves a traceback, or if the run cannot go on from where it stopped. SIGTERM: test_launch.py."""
    config = write_run(tmp_path, n_steps=100_000, save_every=50_000)
    logdir, log = tmp_path / "log", tmp_path / "output"
    [process] = start_processes(default_train_command, number, config, logdir, log=log)
    wait_for(lambda: log.exists() and "step 5 " in log.read_text())
    os.kill(process.pid, number)
    assert finish([process]) == [0]
    stopped_at = int(re.search(rf"stopped by {number.name} at step (\d+)", log.read_text()).group(1))
    assert last_step(logdir) == stopped_at >= 5 and "Traceback" not in log.read_text()
    train_to_end(write_run(tmp_path, n_steps=stopped_at + 3), logdir)
    assert last_step(logdir) == stopped_at + 3


def default_train_command(number, *arguments):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)  # also under nohup
    train_command(*arguments)
