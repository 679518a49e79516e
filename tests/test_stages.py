"""A run in stages: each has its own objective, learning rate, average, batch and segment, and the whole is resumed exactly."""

import json
import re

import pytest
import torch

from common.errors import InputError
from model.config import load_config
from tests.test_training_resume import train_with_kills
from tests.training_fixtures import one_thread, same, train_to_end, weights_of, write_run  # noqa: F401
from training.optimization import learning_rate_factor
from training.same_run import changes
from training.stages import stage_at, stages_of
from training.trainer import Trainer

INFER_GRAD = {"noise_schedule": "3.json"}
STAGES = [
    {"n_steps": 4},
    {"n_steps": 4, "batch_size": 2, "segment_frames": 30, "learning_rate": 4e-3, "ema_decay": 0.5, "infer_grad": INFER_GRAD},
    {"n_steps": 2, "infer_grad": False, "final_learning_rate": 1e-6, "warmup_steps": 0},
]


def write_staged_run(folder, stages=STAGES, **changes):
    (folder / "3.json").write_text('{"betas": [0.001, 0.05, 0.6]}')
    n_steps = sum(stage["n_steps"] for stage in stages)
    return write_run(folder, **{"training__stages": stages, "training__n_steps": n_steps, "training__warmup_steps": 2} | changes)


def test_a_stage_is_the_section_with_its_changes(tmp_path):
    infer_grad = {"noise_schedule": "3.json", "every": 2}
    config = load_config(write_staged_run(tmp_path, training__infer_grad=infer_grad))
    stages = stages_of(config)
    assert [(stage.number, stage.first, stage.end) for stage in stages] == [(1, 0, 4), (2, 4, 8), (3, 8, 10)]
    assert [stage_at(stages, step).number for step in (0, 3, 4, 7, 8, 9, 10)] == [1, 1, 2, 2, 3, 3, 3]
    assert [stage.config.training.batch_size for stage in stages] == [4, 2, 4]
    assert [stage.config.data.segment_frames for stage in stages] == [8, 30, 8]
    assert [stage.config.training.infer_grad and stage.config.training.infer_grad.every for stage in stages] == [2, 1, None]
    assert [stage.config.training.seed for stage in stages] == [0, 0, 0]


def test_the_learning_rate_of_a_stage_starts_anew(tmp_path):
    """Fails if a stage goes on where the cosine of the one before ended, or never reaches its final learning rate."""
    stages = stages_of(load_config(write_staged_run(tmp_path)))
    rates = [2e-3 * learning_rate_factor(stages)(n) for n in range(11)]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 2e-3]) and 1e-4 < rates[3] < 2e-3
    assert rates[4:7] == pytest.approx([2e-3, 4e-3, 4e-3])
    assert rates[8] == pytest.approx(2e-3) and rates[10] == pytest.approx(1e-6)


def test_stages_add_up(tmp_path):
    with pytest.raises(InputError, match="training: n_steps is 11, but the stages have 10"):
        load_config(write_staged_run(tmp_path, training__n_steps=11))


def test_one_stage_is_the_run_without_stages(tmp_path):
    plain, staged = tmp_path / "plain", tmp_path / "staged"
    plain.mkdir(), staged.mkdir()
    train_to_end(write_run(plain, training__n_steps=4, training__warmup_steps=2), plain / "log")
    train_to_end(write_staged_run(staged, [{"n_steps": 4}]), staged / "log")
    name = "log/checkpoint-00000004.pt"
    assert same(weights_of(plain / name), weights_of(staged / name))


def test_each_stage_trains_as_it_says(tmp_path):
    """Fails if batch, segment, objective or average are those of another stage."""
    config = write_staged_run(tmp_path)
    trainer = Trainer(load_config(config), config.parent)
    shapes, has_inference = [], []
    for _ in range(3):
        for batch in trainer.batches():
            result = trainer.train_step(batch)
            shapes.append(tuple(batch.noise.shape))
            has_inference.append(result.infer_grad_loss is not None)
    assert shapes == [(4, 320)] * 4 + [(2, 1200)] * 4 + [(4, 320)] * 2
    assert has_inference == [False] * 4 + [True] * 4 + [False] * 2
    assert trainer.position == 4 * 4 + 4 * 2 + 2 * 4
    before = [parameter.clone() for parameter in trainer.ema.module.parameters()]
    trainer.ema.n_averaged.fill_(100)  # of the last stage, whose decay is the section's
    trainer.ema.update_parameters(trainer.network)
    for old, new, current in zip(before, trainer.ema.module.parameters(), trainer.network.parameters()):
        torch.testing.assert_close(new, torch.lerp(old, current, 0.1))


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_run_killed_in_its_stages_ends_the_same(tmp_path, n_processes):
    config = write_staged_run(tmp_path, training__save_every=1, training__validate_every=3)
    said = train_to_end(config, tmp_path / "whole", n_processes=n_processes)
    assert [line for line in said.splitlines() if line.startswith("stage")] == [
        "stage 1 of 3: steps 1 to 4", "stage 2 of 3: steps 5 to 8", "stage 3 of 3: steps 9 to 10",
    ]  # fmt: skip
    assert "remaining in stage 3 0:00:00" in said
    assert re.search("best.pt of the stages until now is kept as best-until-00000004.pt", said)
    train_with_kills(config, tmp_path / "killed", n_processes, kills=3, seed=1)
    for name in ("checkpoint-00000010.pt", "best.pt"):
        assert same(weights_of(tmp_path / "whole" / name), weights_of(tmp_path / "killed" / name)), name


def test_what_changed_in_a_stage_is_named(tmp_path):
    """Fails if all stages are printed for one key."""
    old = load_config(write_staged_run(tmp_path))
    new = load_config(write_staged_run(tmp_path, [STAGES[0], STAGES[1] | {"n_steps": 6}, STAGES[2]]))
    changed = changes({"config": old.model_dump_json()}, new, "a.pt")
    assert sorted(changed) == [("training.n_steps", 10, 12), ("training.stages.2.n_steps", 4, 6)]


def test_dry_run_measures_each_stage(tmp_path, capsys):
    from training.dry_run import dry_run

    config = write_staged_run(tmp_path)
    text = "\n".join(dry_run(Trainer(load_config(config), config.parent)))
    assert text.index("stage 1 of 3:") < text.index("stage 2 of 3:") < text.index("measured step with inference:") < text.index("stage 3")
    assert "batch of 2 segments of 0.150 s" in text and "for 10 steps" in text
    assert json.loads(config.read_text())["training"]["n_steps"] == 10
