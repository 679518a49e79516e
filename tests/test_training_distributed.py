"""Several processes train one network, as one process would."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import load_config
from tests.processes import TRAINING, children, finish, kill, run_to_end, start, start_processes, wait_for, wait_for_line
from tests.training_fixtures import train_command, train_to_end, write_run
from training import distributed
from training.examples import BatchNumbers
from training.trainer import Trainer

N_STEPS = 20


def record_training(config_path, n_steps, poison_rank, output):
    """Trains and writes, on each process: first gradients, final weights and their average, and what was drawn."""
    distributed.start()
    trainer = Trainer(load_config(config_path), config_path.parent)
    record = {"noise_levels": [], "segments": [], "updated": []}
    for _, batch in zip(range(n_steps), trainer.batches()):
        if trainer.rank == poison_rank:
            batch.segment[0] = float("nan")
        result = trainer.train_step(batch)
        record["noise_levels"].append(batch.noise_level)
        record["segments"].append(batch.segment)
        record["updated"].append(result.updated)
        record.setdefault("loss", result.loss)
        record.setdefault("gradients", {n: p.grad.clone() for n, p in trainer.network.named_parameters()})
    record["weights"] = trainer.network.state_dict()
    record["ema"] = trainer.ema.module.state_dict()
    record["validation"] = trainer.evaluate()
    torch.save(record, f"{output}-{trainer.rank}.pt")
    distributed.end()


def recorded(tmp_path, config, name, n_processes, n_steps=N_STEPS, poison_rank=None):
    """Runs `record_training`; returns the record of each process."""
    output, log = tmp_path / name, tmp_path / f"{name}.log"
    arguments = (config, n_steps, poison_rank, output)
    statuses = finish(start_processes(record_training, *arguments, n_processes=n_processes, log=log))
    assert statuses == [0] * n_processes, log.read_text()
    return [torch.load(f"{output}-{rank}.pt") for rank in range(n_processes)]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The same 20 steps by one process, by two, and by two in portions; the batch of 5 does not divide evenly."""
    folder = tmp_path_factory.mktemp("distributed")
    changes = {"training__batch_size": 5, "training__n_steps": N_STEPS}
    config = write_run(folder, **changes)
    one, two = recorded(folder, config, "one", 1), recorded(folder, config, "two", 2)
    config = write_run(folder, **changes, training__micro_batch_size=2)
    return {"one": one, "two": two, "portions": recorded(folder, config, "portions", 2)}


def largest_difference(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("name", ["two", "portions"])
def test_processes_together_do_what_one_does(records, name):
    """Fails if gradients are not synchronised, wrongly weighted, or accumulated wrongly."""
    one = records["one"][0]
    for record in records[name]:
        assert largest_difference(one["gradients"], record["gradients"]) < 1e-5
        assert largest_difference(one["weights"], record["weights"]) < 1e-5
        assert largest_difference(one["ema"], record["ema"]) < 1e-5
        assert record["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_both_processes_hold_identical_weights(records):
    """Fails if every process trains alone, as when the loss goes around DDP's forward."""
    first, second = records["two"]
    assert largest_difference(first["weights"], second["weights"]) == 0
    assert largest_difference(first["ema"], second["ema"]) == 0


def test_training_moves_the_weights(records):
    """The equalities above would hold of a trainer that does nothing."""
    one = records["one"][0]
    assert largest_difference(one["weights"], one["ema"]) > 1e-4
    assert max(gradient.abs().max().item() for gradient in one["gradients"].values()) > 1e-2


def test_processes_draw_different_examples(records):
    """Fails if all processes seed the same generator: same crops, same noise levels."""
    first, second = (torch.cat(record["noise_levels"]) for record in records["two"])
    assert not set(first.tolist()) & set(second.tolist())
    assert sorted([*first.tolist(), *second.tolist()]) == sorted(torch.cat(records["one"][0]["noise_levels"]).tolist())
    first, second = (torch.cat(record["segments"]) for record in records["two"])
    # A few recordings have but few places, so that some segments come again by chance; the same seed gives all of them.
    assert sum(torch.equal(a, b) for a, b in zip(first, second)) < len(first) / 4


def test_validation_is_shared_and_the_same(records):
    """Fails if processes repeat or forget validation examples, or report their own part alone."""
    (loss, bands), *others = (record["validation"] for record in [records["one"][0], *records["two"]])
    for other_loss, other_bands in others:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert other_bands == pytest.approx(bands, abs=1e-5)


def test_non_finite_update_is_skipped_by_all(tmp_path):
    """Fails if one process skips an update that the others make."""
    config = write_run(tmp_path)
    clean = recorded(tmp_path, config, "clean", 2, n_steps=0)
    poisoned = recorded(tmp_path, config, "poisoned", 2, n_steps=2, poison_rank=1)
    for record in poisoned:
        assert record["updated"] == [False, False]
        assert largest_difference(record["weights"], clean[0]["weights"]) == 0
        assert largest_difference(record["ema"], clean[0]["ema"]) == 0


@pytest.mark.parametrize("batch_size, world_size", [(4, 2), (5, 2), (7, 3), (256, 10)])
def test_shares_make_up_the_batch(batch_size, world_size):
    """Fails if an example is drawn twice or never."""
    shares = [BatchNumbers(100, 3, batch_size, rank, world_size) for rank in range(world_size)]
    for batch, parts in enumerate(zip(*shares)):
        numbers = [number for part in parts for number in part]
        assert numbers == list(range(100 + batch * batch_size, 100 + (batch + 1) * batch_size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_epoch_is_shuffled_anew(tmp_path):
    """Fails if the order is that of the filelist, or the same in every epoch (no `set_epoch`)."""
    config = write_run(tmp_path)
    examples = Trainer(load_config(config), config.parent).examples
    paths, orders = [], []
    examples.recordings.segment = lambda index, *_: paths.append(index) or (torch.zeros(1000), torch.zeros(20, 0))
    for epoch in range(4):
        paths.clear()
        for number in range(epoch * 6, epoch * 6 + 6):
            examples[number]
        assert sorted(paths) == list(range(6))
        orders.append(tuple(paths))
    assert len(set(orders)) > 1 and tuple(range(6)) != orders[0]


def test_same_example_is_the_same_everywhere(tmp_path):
    """An example depends on the seed and its number, and on nothing that was drawn before."""
    config = write_run(tmp_path)
    examples, again = (Trainer(load_config(config), config.parent).examples for _ in range(2))
    examples[3], np.random.rand(), torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(examples[17], again[17]))
    assert not torch.equal(examples[17].noise, examples[18].noise)
    first_epoch, second_epoch = (sorted(examples[epoch * 6 + i].noise_level.item() for i in range(6)) for epoch in (0, 1))
    assert first_epoch != second_epoch


def rank_of(pid):
    return int(re.search(rb"\0RANK=(\d)", Path(f"/proc/{pid}/environ").read_bytes())[1])


def test_dead_process_ends_the_run(tmp_path):
    """Fails if the others wait for it: the run must end within a minute, and say who died of what."""
    config = write_run(tmp_path, training__n_steps=100_000)
    process = start(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 2)
    wait_for_line(process, "step 5 ")
    ranks = {rank_of(pid): pid for pid in children(process.pid)}
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: process 1 was killed by SIGKILL" in errors
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks.values()))


def test_processes_that_do_not_save_in_time_are_no_success(tmp_path):
    """Fails if a run that torchrun kills after a signal ends with status 0, as one that has saved."""
    config = write_run(tmp_path, training__n_steps=100_000)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "2"}
    process = start(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 2, env=environment)
    wait_for_line(process, "step 5 ")
    stuck = next(pid for pid in children(process.pid) if rank_of(pid) == 1)
    os.kill(stuck, signal.SIGSTOP)  # as one whose step, or disk, takes too long
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "of 2 processes saved and ended within 2 s of the signal (wanted: all)" in errors


def test_bad_input_is_said_once_by_several_processes(tmp_path):
    """Fails if the processes all complain, or torchrun's report covers it."""
    config = write_run(tmp_path)
    (tmp_path / "train_3.wav").unlink()
    result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 2)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path}/train_3.wav: No such file or directory\n"
    assert result.stdout == ""


def train_where(folders, *options):
    """Trains as on several machines: each process with the configuration in a folder of its own."""
    folder = folders[int(os.environ["RANK"])]
    train_command(folder / "config.json", folder / "log", *options)


def machines(tmp_path, **changes):
    """Folders of two machines with the same recordings and configuration."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        write_run(folder, **changes)
    return folders


def what_two_say(tmp_path, target, *arguments):
    """Runs two processes that are to fail within seconds; returns statuses and lines."""
    log = tmp_path / "output"
    statuses = finish(start_processes(target, *arguments, n_processes=2, log=log), timeout=60)
    assert "Traceback" not in log.read_text()
    return statuses, log.read_text().splitlines()


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["train", "dry run"])
def test_recording_that_one_machine_lacks(tmp_path, options):
    """Fails if the other process waits for this one in DDP's exchange."""
    folders = machines(tmp_path)
    (folders[1] / "train_3.wav").unlink()
    assert what_two_say(tmp_path, train_where, folders, *options) == (
        [2, 2],
        [f"error: {folders[1]}/train_3.wav: No such file or directory"],
    )


def test_other_recordings_on_one_machine(tmp_path):
    folders = machines(tmp_path)
    (folders[1] / "train.txt").write_text("train_0.wav\n")
    statuses, (line,) = what_two_say(tmp_path, train_where, folders)
    assert statuses == [2, 2]
    assert re.fullmatch(r"error: process 1: training data is 1 recordings .* \(wanted: 6 recordings .*, as in process 0\)", line)


def test_other_configuration_on_one_machine(tmp_path):
    folders = machines(tmp_path)
    write_run(folders[1], training__batch_size=6)
    assert what_two_say(tmp_path, train_where, folders) == (
        [2, 2],
        ["error: process 1: training.batch_size is 6 (wanted: 4, as in process 0)"],
    )


def train_with_little_memory(config, logdir, *options):
    """Trains; the second process runs out of memory in its first step, when the first may be waiting for its gradients."""

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    if os.environ["RANK"] == "1":
        Trainer._backward = out_of_memory
    train_command(config, logdir, *options)


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["train", "dry run"])
def test_one_process_out_of_memory(tmp_path, options):
    """Fails if its line is never said, because it waits for the others and they for it."""
    statuses, lines = what_two_say(tmp_path, train_with_little_memory, write_run(tmp_path), tmp_path / "log", *options)
    assert statuses == [2, 2]
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors[0].startswith("error: process 1: out of memory with training.micro_batch_size None (wanted: ")
    assert len(errors) == 2 and errors[1].startswith("error: process 0: another process has ended or cannot be reached")
    assert not [line for line in lines if "error" in line.lower() and line not in errors]


def test_death_of_another_process_is_one_line(tmp_path):
    """Fails if gloo's error comes with a traceback."""
    log, logdir = tmp_path / "output", tmp_path / "log"
    processes = start_processes(train_command, write_run(tmp_path, training__n_steps=100_000), logdir, n_processes=2, log=log)
    wait_for((logdir / "checkpoint-00000005.pt").exists)
    kill(processes[1:])
    assert finish(processes[:1], timeout=60) == [2]
    assert log.read_text().splitlines()[-1].startswith("error: process 0: another process has ended or cannot be reached")
    assert "Traceback" not in log.read_text()


def test_left_over_variables_are_no_torchrun(tmp_path, monkeypatch):
    """Fails if a process waits for others that nobody started."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    distributed.start()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert Trainer(load_config(write_run(tmp_path)), tmp_path).world_size == 1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_do_what_one_does(tmp_path):
    config = write_run(tmp_path, training__n_steps=5)
    weights = []
    for devices in ("0", "0,1"):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": devices}
        result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / devices, env=environment)
        assert result.returncode == 0, result.stderr
        weights.append(torch.load(tmp_path / devices / "checkpoint-00000005.pt", map_location="cpu")["network"])
    assert largest_difference(*weights) < 1e-4


def test_same_command_with_another_number_of_processes(tmp_path):
    """A run can move to a machine with more or fewer devices; equal up to rounding."""
    constant = {"training__learning_rate": 1e-3, "training__final_learning_rate": 1e-3, "training__warmup_steps": 0}
    config = write_run(tmp_path, training__n_steps=10, **constant)
    train_to_end(config, tmp_path / "moved", n_processes=1)
    config = write_run(tmp_path, training__n_steps=20, **constant)
    train_to_end(config, tmp_path / "moved", n_processes=2)
    train_to_end(config, tmp_path / "stayed", n_processes=1)
    moved, stayed = (torch.load(tmp_path / name / "checkpoint-00000020.pt") for name in ("moved", "stayed"))
    assert moved["step"] == 20 and moved["position"] == 80
    assert largest_difference(moved["network"], stayed["network"]) < 1e-4
