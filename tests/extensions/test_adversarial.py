"""Adversarial training: discriminators judge what InferGrad's steps make; they are part of the exact state."""

import pytest
import torch

from common.errors import InputError
from extensions.infer_grad.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_matching_loss
from tests.extensions.test_infer_grad import flat_gradient, loss_of, write_infer_grad_run
from tests.training_fixtures import first_batch, new_trainer, one_thread, same  # noqa: F401

SMALL = {"windows": [64, 32], "periods": [2, 3], "channels": 4}


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


def test_the_network_gets_gradients_and_the_discriminators_do_not(tmp_path):
    """Fails if the network's step trains the discriminators to be deceived."""
    trainer = new_trainer(write_adversarial_run(tmp_path))
    adversary, config = trainer.objective.adversary, loss_of(trainer).config.adversarial
    y_0, generated = torch.randn(2, 1200), torch.randn(2, 1200, requires_grad=True)
    adversary.losses(y_0, generated, config).sum().backward()
    assert generated.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in adversary.parameters)
    adversary.backward(y_0, generated.detach(), 0.5)
    assert all(parameter.grad is not None for parameter in adversary.parameters)


def test_a_step_trains_both_and_before_its_step_nothing_changes(tmp_path):
    """Fails if discriminators draw from the run's random numbers, count before `from_step`, or do not learn after it."""
    plain, trainer = new_trainer(write_infer_grad_run(tmp_path)), new_trainer(write_adversarial_run(tmp_path))
    adversary = trainer.objective.adversary
    assert plain.objective.adversary is None and "adversary" not in plain.state_dict()
    before, batch = [parameter.clone() for parameter in adversary.parameters], first_batch(plain)
    results = [some.train_step(batch) for some in (plain, trainer)]
    assert results[0].figures == results[1].figures and same(plain.network.state_dict(), trainer.network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, adversary.parameters))
    plain.step = trainer.step = 3
    results = [some.train_step(batch) for some in (plain, trainer)]
    assert results[0].figures["infer_grad_loss"] == results[1].figures["infer_grad_loss"]  # the distance alone
    assert not torch.equal(flat_gradient(trainer), flat_gradient(plain))
    assert any(not torch.equal(a, b) for a, b in zip(before, adversary.parameters))
    assert 0 < trainer.objective.figures()["discriminator_loss"] < 5 and trainer.objective.figures() == {}


def test_a_skipped_update_is_skipped_by_the_discriminators_too(tmp_path):
    trainer = new_trainer(write_adversarial_run(tmp_path))
    trainer.step, adversary = 3, trainer.objective.adversary
    before = [parameter.clone() for parameter in adversary.parameters]
    batch = first_batch(trainer)
    batch.noise[0, 0] = float("nan")
    assert not trainer.train_step(batch).updated
    assert all(torch.equal(a, b) for a, b in zip(before, adversary.parameters))
    assert all(parameter.grad is None for parameter in adversary.parameters)


@pytest.mark.parametrize(
    "adversarial, message",
    [
        ({"windows": [], "periods": []}, "windows and periods are empty"),
        ({"windows": [2]}, r"adversarial\.windows.0.*greater than or equal to 4"),
        ({"windows": [4096], "periods": []}, r"data\.segment_frames: expected segments of 2049 samples or more .*, got 1200"),
        ({"windows": [], "periods": [1300]}, r"data\.segment_frames: expected segments of 1300 samples or more .*, got 1200"),
    ],
)
def test_bad_discriminators_are_refused(tmp_path, adversarial, message):
    """Fails if a run finds out when its discriminators begin."""
    with pytest.raises(InputError, match=message):
        new_trainer(write_adversarial_run(tmp_path, {"channels": 4} | adversarial))


def test_a_run_that_goes_on_keeps_its_discriminators(tmp_path):
    """Fails if they begin anew, or if a run with others takes their weights."""
    trainer, again = (new_trainer(write_adversarial_run(tmp_path, training__seed=seed)) for seed in (0, 1))
    again.load_state_dict(trainer.state_dict())
    assert same(again.state_dict()["adversary"], trainer.state_dict()["adversary"])
    with pytest.raises(InputError, match="training state cannot be used"):
        new_trainer(write_adversarial_run(tmp_path, SMALL | {"periods": [3]})).load_state_dict(trainer.state_dict())


def write_two_adversarial_stages(folder, **of_second):
    stages = [
        {"n_steps": 2, "infer_grad": {"noise_schedule": "three.json", "adversarial": SMALL | changes}}
        for changes in ({"learning_rate": 1e-3}, {"learning_rate": 1e-6} | of_second)
    ]
    return write_infer_grad_run(folder, training__n_steps=4, training__stages=stages)


def test_each_stage_has_its_learning_rate_and_clip(tmp_path):
    """Fails if the first stage's, or those of a checkpoint, hold for all."""
    trainer = new_trainer(write_two_adversarial_stages(tmp_path, gradient_clip=1e-30))
    adversary, rates, moved = trainer.objective.adversary, [], []
    for _ in range(2):
        for batch in trainer.batches():
            before = [parameter.clone() for parameter in adversary.parameters]
            trainer.train_step(batch)
            rates.append(adversary.optimizer.param_groups[0]["lr"])
            moved.append(max((a - b).abs().max().item() for a, b in zip(before, adversary.parameters)))
    assert rates == [1e-3, 1e-3, 1e-6, 1e-6] and min(moved[:2]) > 1e-4 and max(moved[2:]) < 1e-5
    with pytest.raises(InputError, match=r"adversarial.channels: expected 4 in all stages, got 8"):
        new_trainer(write_two_adversarial_stages(tmp_path, channels=8))


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
