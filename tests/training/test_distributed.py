"""Several processes train one network, as one process would."""

import os

import pytest
import torch

from tests.processes import run_processes
from tests.training_fixtures import new_trainer, train_command, train_to_end, write_run
from training import distributed
from training.trainer import Trainer

N_STEPS = 10


def record_training(folder, config_paths):
    """Trains by each configuration; writes, on each process: first gradients, final weights, their average, and what was drawn."""
    distributed.start()
    records = {}
    for name, path in config_paths.items():
        trainer = new_trainer(path)
        record = records[name] = {"noise_levels": [], "segments": [], "updated": []}
        for batch in trainer.batches():
            if name == "poisoned" and trainer.rank == 1:
                batch.segment[0] = float("nan")
            result = trainer.train_step(batch)
            record["noise_levels"].append(batch.noise_level)
            record["segments"].append(batch.segment)
            record["updated"].append(result.updated)
            record.setdefault("loss", result.figures["loss"])
            record.setdefault("gradients", {n: p.grad.clone() for n, p in trainer.network.named_parameters()})
            record.setdefault("state", trainer.state_dict()["adversary"] if "adversarial" in name else None)
        record |= {"weights": trainer.network.state_dict(), "ema": trainer.ema.module.state_dict(), "validation": trainer.evaluate()}
    torch.save(records, folder / f"{distributed.rank()}-of-{distributed.world_size()}.pt")
    distributed.end()


ADVERSARIAL = {"noise_schedule": "3.json", "adversarial": {"windows": [64, 32], "periods": [2, 3], "channels": 4}}
WHOLE = {"batch_size": 5, "n_steps": N_STEPS}  # the batch does not divide evenly
WITH_ADVERSARY = {"data__segment_frames": 30, "n_steps": 1, "infer_grad": ADVERSARIAL}
RUNS = {
    "whole": WHOLE,
    "whole in portions": WHOLE | {"micro_batch_size": 2},
    "adversarial": WITH_ADVERSARY,
    "adversarial in portions": WITH_ADVERSARY | {"micro_batch_size": 1},
    "poisoned": {"n_steps": 2},
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Number of processes -> of each process, by the names of RUNS, the record of the same steps."""
    folder, configs = tmp_path_factory.mktemp("distributed"), {}
    for name, changes in RUNS.items():
        configs[name] = write_run(folder / name, **changes)
    for n in (1, 2):
        statuses, said = run_processes(record_training, folder, configs, n_processes=n)
        assert statuses == [0] * n, said
    return {n: [torch.load(folder / f"{rank}-of-{n}.pt") for rank in range(n)] for n in (1, 2)}


def largest_difference(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("name", ["whole", "whole in portions", "adversarial", "adversarial in portions"])
def test_processes_together_do_what_one_does(records, name):
    """Fails if gradients are not synchronised, wrongly weighted, or accumulated wrongly; or if processes train alone."""
    one = records[1][0][name.removesuffix(" in portions")]
    first, second = (record[name] for record in records[2])
    assert max(gradient.abs().max().item() for gradient in one["gradients"].values()) > 1e-2
    assert first["loss"] == second["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert largest_difference(first["weights"], second["weights"]) == largest_difference(first["ema"], second["ema"]) == 0
    if "adversarial" not in name:
        assert all(largest_difference(one[key], first[key]) < 1e-5 for key in ("gradients", "weights", "ema"))
        assert largest_difference(one["weights"], one["ema"]) > 1e-4  # it has moved
        return
    assert largest_difference(one["gradients"], first["gradients"]) < 1e-3  # their norm is 1; logarithms of spectra enlarge rounding
    for number, moments in one["state"]["optimizer"]["state"].items():  # the first moment is a share of the gradient
        found = first["state"]["optimizer"]["state"][number]["exp_avg"]
        torch.testing.assert_close(found, moments["exp_avg"], atol=1e-6, rtol=1e-3)


def test_processes_draw_different_examples(records):
    """Fails if all processes seed the same generator: same crops, same noise levels."""
    first, second = (torch.cat(record["whole"]["noise_levels"]).tolist() for record in records[2])
    assert not set(first) & set(second)
    assert sorted([*first, *second]) == sorted(torch.cat(records[1][0]["whole"]["noise_levels"]).tolist())
    first, second = (torch.cat(record["whole"]["segments"]) for record in records[2])
    # A few recordings have but few places, so that some segments come again by chance; the same seed gives all of them.
    assert sum(torch.equal(a, b) for a, b in zip(first, second)) < len(first) / 4


def test_validation_is_shared_and_the_same(records):
    """Fails if processes repeat or forget validation examples, or report their own part alone."""
    (loss, bands), *others = (record["whole"]["validation"] for record in [*records[1], *records[2]])
    for other_loss, other_bands in others:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert other_bands == pytest.approx(bands, abs=1e-5)


def test_non_finite_update_is_skipped_by_all(records):
    """Fails if one process skips an update that the others make."""
    for record in records[2]:
        assert record["poisoned"]["updated"] == [False, False]
        assert largest_difference(record["poisoned"]["weights"], record["poisoned"]["ema"]) == 0
    assert records[1][0]["poisoned"]["updated"] == [True, True]


def train_where(folders):
    """Trains as on several machines: each process with the configuration in a folder of its own."""
    folder = folders[int(os.environ["RANK"])]
    train_command(folder / "config.json", folder / "log")


@pytest.mark.parametrize("what", ["recording", "list", "configuration", "batch"])
def test_what_one_machine_lacks(tmp_path, what):
    """Fails if the other process waits for this one in DDP's exchange, or if they train with different things."""
    machines = tmp_path / "first", tmp_path / "second"
    for machine in machines:
        write_run(machine)
    said = "error: processes have different configurations or recordings (expected: the same on all machines)"
    if what == "recording":
        (machines[1] / "train_3.wav").unlink()
        said = f"error: {machines[1]}/train_3.wav: No such file or directory"
    elif what == "list":
        (machines[1] / "train.txt").write_text("train_0.wav\n")
    elif what == "configuration":
        write_run(machines[1], batch_size=6)
    else:
        for machine in machines:
            write_run(machine, batch_size=1)
        said = "error: training.batch_size: expected 2 or more, one per process, got 1"
    assert run_processes(train_where, machines, n_processes=2, timeout=60) == ([2, 2], f"{said}\n")


def train_with_little_memory(config, logdir):
    """Trains; the second process runs out of memory in its first step, when the first may be waiting for its gradients."""

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    if os.environ["RANK"] == "1":
        Trainer._backward = out_of_memory
    train_command(config, logdir)


def test_one_process_out_of_memory(tmp_path):
    """Fails if its line is never said, because it waits for the others and they for it."""
    statuses, said = run_processes(train_with_little_memory, write_run(tmp_path), tmp_path / "log", n_processes=2, timeout=60)
    assert statuses[1] == 2 and statuses[0] != 0  # the other has lost a connection
    assert "error: process 1: out of memory: expected a smaller training.micro_batch_size, " in said


def test_same_command_with_another_number_of_processes(tmp_path):
    """A run can move to a machine with more or fewer devices; equal up to rounding."""
    constant = {"learning_rate": 1e-3, "final_learning_rate": 1e-3, "warmup_steps": 0}
    train_to_end(write_run(tmp_path, n_steps=5, **constant), tmp_path / "moved")
    config = write_run(tmp_path, n_steps=10, **constant)
    train_to_end(config, tmp_path / "moved", n_processes=2)
    train_to_end(config, tmp_path / "stayed")
    moved, stayed = (torch.load(tmp_path / name / "checkpoint-00000010.pt") for name in ("moved", "stayed"))
    assert moved["step"] == 10 and moved["position"] == 40
    assert largest_difference(moved["network"], stayed["network"]) < 1e-4
