"""Adversarial training: discriminators judge what InferGrad's steps make; they are part of the exact state."""

import pytest
import torch

from common.errors import InputError
from extensions.infer_grad.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_matching_loss
from model.config import load_config
from tests.extensions.test_infer_grad import first_batch, flat_gradient, new_trainer, write_infer_grad_run
from tests.test_training_resume import train_with_kills
from tests.training_fixtures import one_thread, same, train_to_end, weights_of  # noqa: F401
from training.same_run import changes

SMALL = {"windows": [64, 32], "periods": [2, 3], "channels": 4}
N_STEPS = 6


def write_adversarial_run(folder, adversarial=SMALL, **changes):
    return write_infer_grad_run(folder, {"adversarial": adversarial}, **changes)


def test_losses_are_those_of_their_papers():
    """Least squares: a discriminator that is right has none; the network has none where it takes a result for a recording."""
    y = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    discriminators = Discriminators((64,), (2,), 4)
    of_y = discriminators(y)
    assert len(of_y) == 2 and all(scores.shape[0] == 2 and len(features) >= 4 for scores, features in of_y)
    ones, zeros = ([(torch.full_like(scores, value), features) for scores, features in of_y] for value in (1.0, 0.0))
    assert discriminator_loss(ones, zeros).tolist() == [0, 0] and discriminator_loss(zeros, ones).tolist() == [2, 2]
    assert adversarial_loss(ones).tolist() == [0, 0] and adversarial_loss(zeros).tolist() == [1, 1]
    assert feature_matching_loss(of_y, of_y).tolist() == [0, 0]
    doubled = [(scores, [2 * x for x in features]) for scores, features in of_y]
    torch.testing.assert_close(feature_matching_loss(of_y, doubled), torch.ones(2))


def test_discriminators_learn_to_tell_noise_from_a_tone():
    torch.manual_seed(0)
    discriminators = Discriminators((64,), (2, 3), 4)
    optimizer = torch.optim.Adam(discriminators.parameters(), 3e-3)
    tone, losses = torch.sin(torch.arange(1000) * 0.1)[None], []
    for _ in range(40):
        loss = discriminator_loss(discriminators(tone), discriminators(torch.randn(1, 1000))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]


def test_the_network_gets_gradients_and_the_discriminators_do_not(tmp_path):
    """Fails if the network's step trains the discriminators to be deceived."""
    trainer = new_trainer(write_adversarial_run(tmp_path))
    config = trainer.infer_grad_loss.config.adversarial
    y_0, generated = torch.randn(2, 1200), torch.randn(2, 1200, requires_grad=True)
    trainer.adversary.losses(y_0, generated, config).sum().backward()
    assert generated.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in trainer.adversary.parameters)
    trainer.adversary.backward(y_0, generated.detach(), 0.5)
    assert all(parameter.grad is not None for parameter in trainer.adversary.parameters)


def test_off_nothing_changes(tmp_path):
    """Fails if discriminators draw from the run's random numbers, or count where they are left out."""
    plain, adversarial = tmp_path / "plain", tmp_path / "adversarial"
    plain.mkdir(), adversarial.mkdir()
    first = new_trainer(write_infer_grad_run(plain))
    second = new_trainer(write_adversarial_run(adversarial))
    assert first.adversary is None and same(first.network.state_dict(), second.network.state_dict())
    assert "adversary" not in first.state_dict()
    batch = first_batch(first)
    results = [trainer.train_step(batch) for trainer in (first, second)]  # before `from_step`
    assert results[0].loss == results[1].loss and same(first.network.state_dict(), second.network.state_dict())


def test_a_step_trains_both(tmp_path):
    trainer = new_trainer(write_adversarial_run(tmp_path))
    trainer.step = 3
    before = [parameter.clone() for parameter in trainer.adversary.parameters]
    plain = new_trainer(write_infer_grad_run(tmp_path))
    plain.step = 3
    batch = first_batch(trainer)
    results = [some.train_step(batch) for some in (trainer, plain)]
    assert results[0].infer_grad_loss == results[1].infer_grad_loss  # the distance alone
    assert not torch.equal(flat_gradient(trainer), flat_gradient(plain))
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.adversary.parameters))
    assert 0 < trainer.adversary.mean_loss() < 5 and trainer.adversary.mean_loss() is None


def test_a_skipped_update_is_skipped_by_the_discriminators_too(tmp_path):
    trainer = new_trainer(write_adversarial_run(tmp_path))
    trainer.step = 3
    before = [parameter.clone() for parameter in trainer.adversary.parameters]
    batch = first_batch(trainer)
    batch.noise[0, 0] = float("nan")
    assert not trainer.train_step(batch).updated
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.adversary.parameters))
    assert all(parameter.grad is None for parameter in trainer.adversary.parameters)


@pytest.mark.parametrize("changes", [{}, {"training__micro_batch_size": 1}], ids=["whole", "portions"])
def test_two_processes_train_as_one(tmp_path, changes):
    """Fails if discriminators of processes or portions see gradients of their own alone."""
    for n_processes, own in [(1, {}), (2, changes)]:
        config = write_infer_grad_run(tmp_path, {"from_step": 0, "adversarial": SMALL}, training__n_steps=1, **own)
        train_to_end(config, tmp_path / str(n_processes), n_processes=n_processes)
    one, two = (weights_of(tmp_path / str(n) / "checkpoint-00000001.pt") for n in (1, 2))
    for part in (lambda state: state["optimizer"], lambda state: state["adversary"]["optimizer"]):
        for number, moments in part(one)["state"].items():  # the first moment after one step is a share of the gradient
            torch.testing.assert_close(part(two)["state"][number]["exp_avg"], moments["exp_avg"], atol=1e-6, rtol=1e-3)


def test_a_killed_run_ends_with_the_same_state(tmp_path):
    """Fails if the discriminators or their optimiser are not saved."""
    config = write_adversarial_run(tmp_path, training__save_every=1)
    train_to_end(config, tmp_path / "whole")
    train_with_kills(config, tmp_path / "killed", 1, kills=3, seed=2)
    whole, killed = (weights_of(tmp_path / name / f"checkpoint-{N_STEPS:08d}.pt") for name in ("whole", "killed"))
    assert [key for key in whole if not same(whole[key], killed[key])] == [] and "adversary" in whole


def test_a_run_without_discriminators_is_refused(tmp_path):
    with pytest.raises(InputError, match="windows and periods are empty"):
        load_config(write_adversarial_run(tmp_path, {"windows": [], "periods": []}))


@pytest.mark.parametrize(
    "adversarial, message",
    [
        ({"windows": [2]}, r"adversarial\.windows.0.*greater than or equal to 4"),
        ({"windows": [4096], "periods": []}, r"segments of 1200 samples \(wanted by training\.infer_grad: 2049 or more\)"),
        ({"windows": [], "periods": [1300]}, r"segments of 1200 samples \(wanted by training\.infer_grad: 1300 or more\)"),
    ],
)
def test_discriminators_of_more_than_a_segment_are_refused(tmp_path, adversarial, message):
    """Fails if a run finds out when its discriminators begin."""
    with pytest.raises(InputError, match=message):
        new_trainer(write_adversarial_run(tmp_path, {"channels": 4} | adversarial))


def test_a_run_that_goes_on_keeps_its_discriminators(tmp_path):
    """Fails if other discriminators are called an allowed change, and their weights an unusable training state."""
    old, weaker, other = (
        load_config(write_adversarial_run(tmp_path, SMALL | of_run)) for of_run in ({}, {"adversarial_weight": 0.1}, {"periods": [3]})
    )
    state = {"config": old.model_dump_json()}
    assert [key for key, *_ in changes(state, weaker, "a.pt")] == ["training.infer_grad.adversarial.adversarial_weight"]
    with pytest.raises(InputError, match=r"a.pt: training.infer_grad.adversarial.periods is .* \(wanted by the configuration: \(3,\)\)"):
        changes(state, other, "a.pt")


def write_two_adversarial_stages(folder, **of_second):
    stages = [
        {"n_steps": 2, "infer_grad": {"noise_schedule": "three.json", "adversarial": SMALL | changes}}
        for changes in ({"learning_rate": 1e-3}, {"learning_rate": 1e-6} | of_second)
    ]
    return write_infer_grad_run(folder, training__n_steps=4, training__stages=stages)


def test_each_stage_has_its_learning_rate_and_clip(tmp_path):
    """Fails if the first stage's, or those of a checkpoint, hold for all."""
    trainer = new_trainer(write_two_adversarial_stages(tmp_path, gradient_clip=1e-30))
    rates, moved = [], []
    for _ in range(2):
        for batch in trainer.batches():
            before = [parameter.clone() for parameter in trainer.adversary.parameters]
            trainer.train_step(batch)
            rates.append(trainer.adversary.optimizer.param_groups[0]["lr"])
            moved.append(max((a - b).abs().max().item() for a, b in zip(before, trainer.adversary.parameters)))
    assert rates == [1e-3, 1e-3, 1e-6, 1e-6] and min(moved[:2]) > 1e-4 and max(moved[2:]) < 1e-5
    with pytest.raises(InputError, match=r"adversarial.channels are 4 and 8 \(wanted: the same discriminators in all stages\)"):
        new_trainer(write_two_adversarial_stages(tmp_path, channels=8))
