"""A run from its first step to its end: what it logs, keeps and survives."""

import errno
import math
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.processes import children, finish, run_processes, start_processes, wait_for
from tests.training_fixtures import SAMPLE_RATE, train_command, train_here, train_to_end, write_run
from training import examples
from training.checkpointing import RunFolder, read_state
from training.objective import DiffusionObjective
from training.statistics import BAND_NAMES
from training.trainer import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of twenty steps, in `log` beside its configuration, with previews; and what it said."""
    folder = tmp_path_factory.mktemp("trained")
    changes = {"n_previews": 2, "validate_every": 7, "keep_checkpoints": 2, "milestone_every": 6}
    config = write_run(folder, **changes)
    return config, folder / "log", train_to_end(config, folder / "log")


def test_old_checkpoints_go_and_milestones_stay(trained):
    milestones = [f"milestone-{step:08d}.pt" for step in (6, 12, 18)]
    assert sorted(path.name for path in trained[1].glob("*.pt")) == [
        "best.pt", "checkpoint-00000018.pt", "checkpoint-00000020.pt", *milestones,
    ]  # fmt: skip
    assert "\x1b" not in trained[2] and "%|" not in trained[2]  # plain lines where there is no terminal


def test_tensorboard_shows_everything(trained):
    """Fails if a curve, a sound or a picture is missing or not finite."""
    events = EventAccumulator(str(trained[1]), size_guidance={"images": 0, "audio": 0}).Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= {
        *("train/loss", "train/gradient_norm", "train/learning_rate", "train/skipped_updates"),
        *("validation/loss", "validation/log_mel_l1", "validation/m_stft"),
        *("speed/samples_per_second", "speed/real_time_factor"),
        *(f"validation_loss_by_noise_level/{name}" for name in BAND_NAMES),
    }
    for tag in tags["scalars"]:
        assert all(abs(event.value) < 1e6 for event in events.Scalars(tag)), tag
    assert set(tags["audio"]) == {
        f"{i}-validation_{i}/{what}" for i in range(2) for what in ("recording", "six_steps", "six_steps_averaged")
    }
    assert set(tags["images"]) == {"mel/0-validation_0", "mel/1-validation_1"}
    assert tags["tensors"] == ["config/text_summary"]
    assert events.Audio("0-validation_0/six_steps_averaged")[0].sample_rate == SAMPLE_RATE
    assert [event.step for event in events.Scalars("validation/loss")] == [7, 14, 20]


def test_finished_run_is_left_alone(trained):
    before = {path: path.read_bytes() for path in trained[1].glob("*.pt")}
    assert "nothing to do" in train_to_end(*trained[:2])
    assert before == {path: path.read_bytes() for path in trained[1].glob("*.pt")}


@pytest.fixture
def run_breaking(tmp_path, monkeypatch):
    """run_breaking(broken_at, factor, changes): a run whose weights are ruined at certain batches; status, last state and output."""

    def run(broken_at, factor=2.0, **changes):
        train_step = Trainer.train_step

        def breaking(trainer, batch):
            if trainer.position // trainer.config.training.batch_size in broken_at:
                with torch.no_grad():
                    for parameter in trainer.network.parameters():
                        parameter.mul_(factor)
            return train_step(trainer, batch)

        monkeypatch.setattr(Trainer, "train_step", breaking)
        status, said = train_here(write_run(tmp_path, **changes), tmp_path / "log")
        return status, RunFolder(tmp_path / "log", 3).newest()[1], said

    return run


def test_explosion_goes_back_with_a_lower_learning_rate(run_breaking):
    """Fails if the run goes on with ruined weights, repeats the examples that ruined them, or keeps the learning rate."""
    stages = [{"n_steps": 60}, {"n_steps": 90}]
    status, state, said = run_breaking([90], n_steps=150, stages=stages, save_every=20, log_every=50, keep_checkpoints=5)
    assert status == 0 and "remaining in stage 1 " in said and "stage 2 of 2: steps 61 to 150\n" in said
    assert "times its lowest value" in said and "(1 of 3)" in said
    assert re.search(r"back to \S*checkpoint-000000[0-8]0\.pt", said)  # before step 90
    assert (state["step"], state["n_rollbacks"]) == (150, 1)
    assert state["position"] > 150 * 4  # behind the examples of the divergence
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.5e-4)  # half the final one
    assert state["stability"]["calm"] and state["stability"]["lowest"] < 3


RUINED = {"n_steps": 16, "skip_limit": 3}  # by NaN in the seventh batch, so that the run goes back


def test_failed_saves_leave_the_first_checkpoint_to_go_back_to(run_breaking, monkeypatch):
    """Fails if a rollback looks for a checkpoint that was never written; or for the best loss, which the first one does not know."""
    save, losses = RunFolder.save, iter([0.3, *[0.7] * 10])

    def save_first_and_last(folder, state, milestone=False):
        if 0 < state["step"] < 16:
            raise OSError(errno.ENOSPC, "cannot save: No space left on device", "checkpoint")
        return save(folder, state, milestone)

    monkeypatch.setattr(RunFolder, "save", save_first_and_last)
    monkeypatch.setattr(Trainer, "evaluate", lambda self: (next(losses), {}))
    status, state, said = run_breaking([6], math.nan, **RUINED, save_every=4, validate_every=4)
    assert (status, state["step"], state["n_rollbacks"]) == (0, 16, 1)
    assert "warning: checkpoint: cannot save: No space left on device; training goes on" in said
    assert re.search(r"back to \S*checkpoint-00000000\.pt", said)
    assert "validation loss 0.7" in said and state["best_validation_loss"] == 0.3


def test_best_is_what_was_written(tmp_path, monkeypatch):
    """Fails if a NaN stays the best for ever, or a best loss is remembered whose `best.pt` a full disk refused."""
    losses, save_best = iter([math.nan, 0.3, 0.1, 0.2, 0.4]), RunFolder.save_best

    def refuse_one(folder, state):
        if state["best_validation_loss"] == 0.1:
            raise OSError(errno.ENOSPC, "cannot save: No space left on device", "best.pt")
        save_best(folder, state)

    monkeypatch.setattr(RunFolder, "save_best", refuse_one)
    monkeypatch.setattr(Trainer, "evaluate", lambda self: (next(losses), {}))
    train_to_end(write_run(tmp_path, n_steps=10, validate_every=2), tmp_path / "log")
    best = read_state(tmp_path / "log" / "best.pt")
    assert (best["step"], best["best_validation_loss"]) == (8, 0.2)


def test_lasting_divergence_gives_up(tmp_path, monkeypatch):
    """Fails if the run loops for ever, or ends as if it had succeeded."""
    config = write_run(tmp_path, skip_limit=4, max_rollbacks=2, save_every=10)
    diffusion = DiffusionObjective.diffusion
    monkeypatch.setattr(DiffusionObjective, "diffusion", lambda *arguments: diffusion(*arguments) * math.nan)
    status, said = train_here(config, tmp_path / "log")
    assert status == 1
    assert said.count("back to") == 2 and "giving up after 2 returns" in said
    assert "not finite 4 times in a row" in said


def limited_train_command(limit, *arguments):
    """Trains on a disk where no file can grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    train_command(*arguments)


@pytest.mark.parametrize("on_failed_save, last_logged", [("stop", 10), ("continue", 20)])
def test_disk_full(trained, tmp_path, on_failed_save, last_logged):
    """Fails if a failed save damages the checkpoint before it, passes in silence, or does not do as configured."""
    logdir = tmp_path / "log"
    train_to_end(write_run(tmp_path, n_steps=5), logdir)
    good = (logdir / "checkpoint-00000005.pt").read_bytes()
    config = write_run(tmp_path, on_failed_save=on_failed_save)
    statuses, said = run_processes(limited_train_command, len(good) // 2, config, logdir)
    assert statuses == [2] and f"step {last_logged} " in said and f"step {last_logged + 5} " not in said
    assert said.splitlines()[-1].startswith("error: ") and "cannot save: File too large" in said and "Traceback" not in said
    assert (logdir / "checkpoint-00000005.pt").read_bytes() == good
    assert not list(logdir.glob(".*.tmp"))
    train_to_end(config, logdir)  # once there is room again
    assert (logdir / "checkpoint-00000020.pt").exists()


def test_first_checkpoint_must_be_written(tmp_path):
    """Fails if a run trains with nothing to go back to."""
    statuses, said = run_processes(limited_train_command, 10_000, write_run(tmp_path), tmp_path / "log")
    *lines, last = said.splitlines()
    assert statuses == [2] and last == f"error: {tmp_path / 'log' / 'checkpoint-00000000.pt'}: cannot save: File too large"
    assert not lines or (len(lines) == 1 and "TensorBoard's files cannot be written any more" in lines[0])


def train_command_without_reader(*arguments):
    """Trains with standard output on a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    sys.stdout = open(1, "w", closefd=False)  # the one for a file would look for its position
    train_command(*arguments)


def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path):
    """Fails if a line of the log ends a run, or counts as a save that failed."""
    logdir, config = tmp_path / "log", write_run(tmp_path, n_steps=5, validate_every=5)
    assert run_processes(train_command_without_reader, config, logdir) == ([128 + signal.SIGPIPE], "")
    assert read_state(logdir / "checkpoint-00000005.pt")["step"] == 5 and (logdir / "best.pt").exists()


def start_endless(tmp_path, target=train_command, n_workers=2):
    """Starts an endless run; returns its process and its log once it has saved, and the ids of its data workers."""
    config = write_run(tmp_path, n_steps=100_000, data__n_workers=n_workers)
    log, logdir = tmp_path / "output", tmp_path / "log"
    processes = start_processes(target, config, logdir, log=log)
    wait_for((logdir / "checkpoint-00000005.pt").exists)
    return processes, log, children(processes[0].pid)


def hasty_train_command(*arguments):
    examples.SHUTDOWN_SECONDS = 0.5
    train_command(*arguments)


@pytest.mark.parametrize("to_worker, to_run, words", [("SIGKILL", None, "DataLoader worker"), ("SIGSTOP", "SIGTERM", "stopped by SIGTERM")])
def test_data_worker_that_is_dead_or_hangs_ends_with_the_run(tmp_path, to_worker, to_run, words):
    """Fails if the process waits for its workers for ever: they ignore SIGTERM."""
    processes, log, workers = start_endless(tmp_path, hasty_train_command)
    os.kill(workers[0], getattr(signal, to_worker))
    if to_run:
        os.kill(processes[0].pid, getattr(signal, to_run))
    assert (finish(processes, timeout=60) == [0]) == bool(to_run)
    assert words in log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_recording_that_vanishes_mid_run(tmp_path, n_workers):
    """Fails if a traceback, PyTorch's data worker's among them, hides the file's name."""
    processes, log, _ = start_endless(tmp_path, n_workers=n_workers)
    (tmp_path / "train_3.wav").unlink()
    assert finish(processes) == [2]
    assert log.read_text().splitlines()[-1] == f"error: {tmp_path}/train_3.wav: No such file or directory"
    assert "Traceback" not in log.read_text()


def test_dry_run(tmp_path, command):
    """Says what a run would be like, of each stage and kind of step, and leaves nothing behind."""
    stages = [{"n_steps": 15}, {"n_steps": 5, "segment_frames": 30, "infer_grad": {"noise_schedule": "3.json", "every": 2}}]
    config = write_run(tmp_path, micro_batch_size=2, stages=stages)
    status, output, errors = command("-c", config, "-l", tmp_path / "log", "--dry-run")
    assert (status, errors) == (0, "")
    words = [
        *("5,829 parameters, fp32, 1 processes on cpu", "6 recordings, 0.00 hours"),
        *("stage 1 of 2: 15 steps, 10.0 epochs", "4 segments of 0.040 s in a step, 2 at once"),
        *("measured step: ", "stage 2 of 2:", "segments of 0.150 s", "measured step", "measured step with inference: "),
        *("measured validation: ", "forecast: ", "for 20 steps", "peak memory of a process: "),
    ]
    assert re.search(".*".join(map(re.escape, words)), output, re.DOTALL), output
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("kind", ["step", "validation"])
def test_dry_run_with_a_loss_that_is_not_finite(tmp_path, monkeypatch, command, kind):
    """Fails if a run that will come to nothing is called a good one."""
    diffusion = DiffusionObjective.diffusion

    def spoilt(objective, network, batch):
        return diffusion(objective, network, batch) * (math.nan if (kind == "step") == network.training else 1)

    monkeypatch.setattr(DiffusionObjective, "diffusion", spoilt)
    status, output, errors = command("-c", write_run(tmp_path), "--dry-run")
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {kind}: expected a finite loss, got loss nan") and errors.count("\n") == 1
