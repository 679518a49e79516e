"""One step: what it updates, what it skips, in which precision; and validation."""

import copy
import math

import numpy as np
import pytest
import torch

from tests.training_fixtures import first_batch, new_trainer, same, speech, train_steps, write_corpus, write_run
from training.previews import make_previews, preview_pipelines
from training.statistics import means_by_name

DIFFICULT = {
    "silence": np.zeros(4000, np.float32),
    "clipped": np.clip(30 * speech(0.3, 0), -1, 1),
    "shorter_than_a_segment": speech(0.3, 0)[:200],
    "shorter_than_a_segment_and_silent": np.zeros(200, np.float32),
    "one_click": np.eye(1, 4000, 2000, dtype=np.float32)[0],
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_difficult_recordings_train(tmp_path, precision):
    """Fails if a logarithm of nothing, or a recording padded with nothing, ends in NaN."""
    for name in ("train", "validation"):
        write_corpus(tmp_path, {f"{name}_{stem}": audio for stem, audio in DIFFICULT.items()}, name)
    trainer = new_trainer(write_run(tmp_path, precision=precision, batch_size=5))
    for result in train_steps(trainer, 5):
        assert result.updated and all(map(math.isfinite, result.figures.values()))
    assert math.isfinite(trainer.evaluate()[0])
    previews = make_previews(trainer, preview_pipelines(trainer), 5)
    assert len(previews) == 5
    assert all(result.isfinite().all() for preview in previews for result in (*preview.results.values(), preview.result_mel))
    assert all(math.isfinite(value) for value in means_by_name(preview.figures for preview in previews).values())


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_non_finite_batch_changes_nothing(tmp_path, value):
    """Fails if a bad batch gets into weights, average or optimiser, or goes uncounted."""
    trainer = new_trainer(write_run(tmp_path))
    batches = trainer.batches()
    trainer.train_step(next(batches))
    before = {key: copy.deepcopy(trainer.state_dict()[key]) for key in ("network", "ema", "optimizer", "n_updates")}
    batch = next(batches)
    batch.segment[2, 30] = value
    result = trainer.train_step(batch)
    assert not result.updated
    assert [key for key, state in before.items() if not same(state, trainer.state_dict()[key])] == []
    trainer.guard.observe(result.figures["loss"], result.updated)
    assert trainer.guard.n_skipped == 1
    assert trainer.train_step(next(batches)).updated


@pytest.mark.parametrize("changes", [{"micro_batch_size": 1}, {"infer_grad": {"noise_schedule": "3.json"}}], ids=str)
def test_a_step_waits_for_the_device_once(tmp_path, monkeypatch, changes):
    """Fails if a number is fetched apart from the others: on a GPU, each time nothing runs until it is there."""
    trainer = new_trainer(write_run(tmp_path, **changes, data__segment_frames=64))
    batches = trainer.batches()
    trainer.train_step(next(batches))
    waits, batch = [], next(batches)
    # The count of the averages and the numbers of the examples are on the CPU anyway.
    trainer.ema.update_parameters = without_counting(trainer.ema.update_parameters, waits)
    if "infer_grad" in changes:
        loss = trainer.objective.of_stages[1]
        loss.noises = without_counting(loss.noises, waits)
    for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, noting(getattr(torch.Tensor, name), name, waits))
    assert trainer.train_step(batch).updated
    assert waits == ["tolist"]


def noting(method, name, calls):
    return lambda *arguments, **keywords: calls.append(name) or method(*arguments, **keywords)


def without_counting(function, counted):
    def call(*arguments):
        before = len(counted)
        result = function(*arguments)
        del counted[before:]
        return result

    return call


def test_gradient_is_clipped(tmp_path):
    """Fails if the norm is only reported."""
    trainer = new_trainer(write_run(tmp_path, gradient_clip=0.5))
    assert trainer.train_step(first_batch(trainer)).figures["gradient_norm"] > 0.5
    clipped = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm().item()
    assert clipped == pytest.approx(0.5, rel=1e-4)


def test_learning_rate_follows_the_updates(tmp_path):
    """Fails if the rate freezes, skips the warm-up, restarts on resuming, or if a checkpoint's wins over the configuration's."""
    changes = {"n_steps": 20, "warmup_steps": 6}
    trainer, resumed = (new_trainer(write_run(tmp_path, **changes)) for _ in range(2))
    rates = []
    for batch in trainer.batches():
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        if len(rates) == 13:
            resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
        trainer.train_step(batch)
    assert rates[:6] == pytest.approx([2e-3 * (i + 1) / 6 for i in range(6)])
    assert rates[6] == 2e-3 and all(a > b for a, b in zip(rates[6:], rates[7:]))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)

    state = copy.deepcopy(resumed.state_dict())
    assert resumed.optimizer.param_groups[0]["lr"] == rates[12]
    resumed.train_step(first_batch(resumed))
    assert resumed.optimizer.param_groups[0]["lr"] == rates[13]
    changed = new_trainer(write_run(tmp_path, **changes, learning_rate=2e-4, final_learning_rate=1e-5))
    changed.load_state_dict(state)
    assert changed.optimizer.param_groups[0]["lr"] == pytest.approx(rates[12] / 10)


def test_validation_measures_what_training_does(tmp_path):
    """Fails if validation draws anew each time or with another schedule. On the same recordings and seed it is the training loss."""
    trainer = new_trainer(write_run(tmp_path, data__validation_filelist="train.txt", batch_size=128))
    loss, groups = trainer.evaluate()
    assert (loss, groups) == trainer.evaluate()
    levels = torch.stack([trainer.data.validation_examples[i].noise_level for i in range(128)])
    assert levels.min() < 0.3 and levels.max() > 0.9
    assert trainer.train_step(first_batch(trainer)).figures["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_changes_nothing_but_memory(tmp_path, precision):
    changes = {"precision": precision, "activation_checkpointing": True}
    sparing, plain = (new_trainer(write_run(tmp_path, **{key: changes[key] for key in list(changes)[:n]})) for n in (2, 1))
    for trainer in (plain, sparing):
        train_steps(trainer, 2)
    assert same(plain.network.state_dict(), sparing.network.state_dict())
    assert saved_bytes(sparing) < saved_bytes(plain) / 2
    sparing.evaluate()


def saved_bytes(trainer):
    """Bytes that a forward pass keeps for the backward pass."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor):
        trainer.objective.losses(trainer.network, trainer.prepare(first_batch(trainer)), 0)
    return sum(sizes)


def test_weights_loss_and_average_stay_in_float32(tmp_path):
    """Fails if mixed precision reaches what it must not."""
    trainer = new_trainer(write_run(tmp_path, precision="bf16"))
    assert trainer._backward(first_batch(trainer))["loss"].dtype == torch.float32
    assert {p.dtype for network in (trainer.network, trainer.ema.module) for p in network.parameters()} == {torch.float32}
    seen = []
    trainer.network.dblocks[0].convs[0].register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    trainer.train_step(first_batch(trainer))
    assert seen == [torch.bfloat16]  # the convolutions are what is to be fast


@pytest.mark.gpu
def test_fp16_trains_on_a_gpu(tmp_path):
    """The first steps may be skipped, until the scaler has found its scale."""
    trainer = new_trainer(write_run(tmp_path, precision="fp16", n_steps=60))
    updated = [trainer.train_step(batch).updated for batch in trainer.batches()]
    assert all(updated[-20:])
    assert trainer.state_dict()["scaler"]["scale"] > 0
