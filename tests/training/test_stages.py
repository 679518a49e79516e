"""A run in stages: each has its own objective, learning rate, average, batch and segment."""

import pytest
import torch

from common.errors import InputError
from model.config import load_config
from tests.training_fixtures import new_trainer, same, train_steps, write_run
from training.optimization import learning_rate
from training.stages import stage_at, stages_of

INFER_GRAD = {"noise_schedule": "3.json"}
STAGES = [
    {"n_steps": 4},
    {"n_steps": 4, "batch_size": 2, "segment_frames": 30, "learning_rate": 4e-3, "ema_decay": 0.5, "infer_grad": INFER_GRAD},
    {"n_steps": 2, "infer_grad": False, "final_learning_rate": 1e-6, "warmup_steps": 0},
]


def write_staged_run(folder, stages=STAGES, **changes):
    n_steps = sum(stage["n_steps"] for stage in stages)
    return write_run(folder, **{"stages": stages, "n_steps": n_steps, "warmup_steps": 2} | changes)


def test_a_stage_is_the_section_with_its_changes(tmp_path):
    config = load_config(write_staged_run(tmp_path, infer_grad={"noise_schedule": "3.json", "every": 2}))
    stages = stages_of(config)
    assert [(stage.number, stage.first, stage.end) for stage in stages] == [(1, 0, 4), (2, 4, 8), (3, 8, 10)]
    assert [stage_at(stages, step).number for step in (0, 3, 4, 7, 8, 9, 10)] == [1, 1, 2, 2, 3, 3, 3]
    assert [stage.config.training.batch_size for stage in stages] == [4, 2, 4]
    assert [stage.config.data.segment_frames for stage in stages] == [8, 30, 8]
    assert [stage.config.training.infer_grad and stage.config.training.infer_grad.every for stage in stages] == [2, 1, None]
    assert [stage.config.training.seed for stage in stages] == [0, 0, 0]
    with pytest.raises(InputError, match="training: n_steps is 11, but the stages have 10"):
        load_config(write_staged_run(tmp_path, n_steps=11))


def test_the_learning_rate_of_a_stage_starts_anew(tmp_path):
    """Fails if a stage goes on where the cosine of the one before ended, or never reaches its final learning rate."""
    stages = stages_of(load_config(write_staged_run(tmp_path)))
    rates = [learning_rate(stages, n) for n in range(11)]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 2e-3]) and 1e-4 < rates[3] < 2e-3
    assert rates[4:7] == pytest.approx([2e-3, 4e-3, 4e-3])
    assert rates[8] == pytest.approx(2e-3) and rates[10] == pytest.approx(1e-6)


def test_one_stage_is_the_run_without_stages(tmp_path):
    plain = new_trainer(write_run(tmp_path, n_steps=4, warmup_steps=2))
    staged = new_trainer(write_staged_run(tmp_path, [{"n_steps": 4}]))
    for trainer in (plain, staged):
        train_steps(trainer, 4)
    assert same(*({key: trainer.state_dict()[key] for key in ("network", "ema", "optimizer", "position")} for trainer in (plain, staged)))


def test_each_stage_trains_as_it_says(tmp_path):
    """Fails if batch, segment, objective or average are those of another stage."""
    trainer = new_trainer(write_staged_run(tmp_path))
    shapes, has_inference = [], []
    for _ in range(3):
        for batch in trainer.batches():
            result = trainer.train_step(batch)
            shapes.append(tuple(batch.noise.shape))
            has_inference.append("infer_grad_loss" in result.figures)
    assert shapes == [(4, 320)] * 4 + [(2, 1200)] * 4 + [(4, 320)] * 2
    assert has_inference == [False] * 4 + [True] * 4 + [False] * 2
    assert trainer.position == 4 * 4 + 4 * 2 + 2 * 4
    before = [parameter.clone() for parameter in trainer.ema.module.parameters()]
    trainer.ema.n_averaged.fill_(100)  # of the last stage, whose decay is the section's
    trainer.ema.update_parameters(trainer.network)
    for old, new, current in zip(before, trainer.ema.module.parameters(), trainer.network.parameters()):
        torch.testing.assert_close(new, torch.lerp(old, current, 0.1))
