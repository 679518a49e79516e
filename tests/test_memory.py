"""A step that does not fit into memory is refused before it is made."""

import json

import pytest
import torch

from common.errors import InputError
from model.config import load_config
from tests.extensions.test_infer_grad import write_infer_grad_run
from tests.processes import TRAINING, run_to_end
from tests.training_fixtures import one_thread, same, write_run  # noqa: F401
from training import memory
from training.memory import check_memory, peak_live_bytes, step_bytes
from training.trainer import Trainer


def trainer_of(config):
    return Trainer(load_config(config), config.parent)


def test_tensors_are_counted_while_they_live():
    def function():
        a = torch.zeros(1000)
        b = a + 1  # both live
        del a
        return b * 2

    assert peak_live_bytes(function) == 8000


def test_the_estimate_grows_with_the_portion_and_leaves_no_trace(tmp_path):
    """Fails if portions are not heeded, or if the estimate changes weights, gradients, random numbers or the step."""
    trainer = trainer_of(write_run(tmp_path, training__batch_size=64))
    before, rng = {name: t.clone() for name, t in trainer.network.state_dict().items()}, torch.get_rng_state()
    whole = step_bytes(trainer, trainer.stages[0])
    assert same(dict(trainer.network.state_dict()), before) and torch.equal(torch.get_rng_state(), rng)
    assert trainer.step == trainer.position == 0 and all(p.grad is None for p in trainer.network.parameters())
    trainer = trainer_of(write_run(tmp_path, training__batch_size=64, training__micro_batch_size=8))
    assert memory.WORKSPACE < step_bytes(trainer, trainer.stages[0]) < whole


def test_a_random_schedule_is_counted_with_all_its_steps(tmp_path):
    """Fails if the estimate is that of the schedule which the first step happens to draw."""
    few, many = (
        trainer_of(write_infer_grad_run(tmp_path, {"random_share": 0.01, "random_steps": [2, most]}, training__batch_size=64))
        for most in (2, 12)
    )
    assert [len(trainer.infer_grad_loss.longest_schedule) for trainer in (few, many)] == [3, 12]
    assert step_bytes(many, many.stages[0]) - memory.WORKSPACE > 2 * (step_bytes(few, few.stages[0]) - memory.WORKSPACE)


def test_a_run_that_does_not_fit_is_refused_by_name(tmp_path, monkeypatch):
    trainer = trainer_of(write_run(tmp_path))
    monkeypatch.setattr(memory, "free_bytes", lambda: 1e8)
    with pytest.raises(InputError, match=r"needs about 0.5 GB in each process, but 0.1 GB are free .*training.micro_batch_size, now None"):
        check_memory(trainer)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)  # the system does not tell
    assert check_memory(trainer) == []


def test_a_batch_of_a_million_is_one_line(tmp_path):
    """As a command: fails if the kernel is left to kill it."""
    config = write_run(tmp_path)
    values = json.loads(config.read_text())
    values["training"]["batch_size"] = 10_000_000
    config.write_text(json.dumps(values))
    for options in ([], ["--dry-run"]):
        result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", *options)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert "GB are free (wanted: a smaller training.micro_batch_size, now None" in result.stderr
        assert not list(tmp_path.glob("log/*.pt"))
