"""The seam between a training step and what it minimises."""

from pathlib import Path

import pytest
import torch

import training
from common.errors import InputError
from extensions.registry import OBJECTIVES
from tests.training_fixtures import new_trainer, train_to_end, weights_of, write_run
from training.objective import DiffusionObjective, Losses


class LoudnessObjective(DiffusionObjective):
    """The diffusion loss and, weighted, the mean square of the prediction; with a state of its own."""

    def __init__(self, trainer, folder):
        super().__init__(trainer, folder)
        self.weight, self.n_updates = trainer.config.training.objective.options["weight"], 0

    def losses(self, network, batch, step):
        diffusion = self.diffusion(network, batch)
        loudness = network(batch.z_0, batch.mel, batch.noise_level).square().mean(1)
        return Losses(diffusion + self.weight * loudness, {"loss": diffusion.detach(), "loudness_loss": loudness.detach()})

    def update(self, updated):
        self.n_updates += updated

    def state_dict(self):
        return {"loudness": {"n_updates": self.n_updates}}

    def load_state_dict(self, state):
        self.n_updates = state["loudness"]["n_updates"]


def test_a_line_of_registration_trains_another_objective(tmp_path, monkeypatch):
    """Fails if its loss, its log, its options or its state need anything beside a class and this line."""
    monkeypatch.setitem(OBJECTIVES, "loudness", f"{__name__}.LoudnessObjective")
    options = {"name": "loudness", "options": {"weight": 2.0}}
    config = write_run(tmp_path, n_steps=10, objective=options)
    said = train_to_end(config, tmp_path / "log")
    assert "  loudness loss " in said
    state = weights_of(tmp_path / "log" / "checkpoint-00000010.pt")
    assert state["loudness"] == {"n_updates": 10}
    trainer = new_trainer(config)
    trainer.load_state_dict(state)
    assert trainer.objective.n_updates == 10 and trainer.objective.weight == 2.0
    train_to_end(write_run(tmp_path, n_steps=10), tmp_path / "plain")
    plain = weights_of(tmp_path / "plain" / "checkpoint-00000010.pt")
    assert any(not torch.equal(plain["network"][name], tensor) for name, tensor in state["network"].items())


def test_an_unknown_objective_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"training.objective.name: expected one of diffusion, infer_grad, got 'guess'"):
        new_trainer(write_run(tmp_path, objective={"name": "guess"}))


@pytest.mark.parametrize("name", ["trainer.py", "loop.py"])
def test_a_training_step_names_no_extension(name):
    text = Path(training.__file__).with_name(name).read_text().lower()
    assert "infer_grad" not in text and "adversar" not in text
