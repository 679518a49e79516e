"""InferGrad: generating in training, with gradients, on the steps that ask for it, for any number of processes."""

import pytest
import torch

from common.errors import InputError
from extensions.griffin_lim.gla_grad import GlaGrad
from extensions.infer_grad.pmsqe import PMSQE
from extensions.registry import make_pipeline
from model.samplers import SAMPLERS
from tests.training_fixtures import SAMPLE_RATE, first_batch, new_trainer, one_thread, train_steps, train_to_end, write_run  # noqa: F401
from training.checkpointing import changed_schedules
from training.previews import make_previews, preview_pipelines

SCHEDULE = '{"betas": [0.001, 0.05, 0.6], "sampler": "sde-dpm-solver"}'


def write_infer_grad_run(folder, infer_grad=None, schedule=SCHEDULE, **changes):
    """A run of six steps, the last three of them with inference."""
    (folder / "three.json").write_text(schedule)
    infer_grad = {"noise_schedule": "three.json", "weight": 0.5, "from_step": 3} | (infer_grad or {})
    changes = {"data__segment_frames": 30, "training__n_steps": 6} | changes
    return write_run(folder, **changes, training__infer_grad=infer_grad)


def infer_grad_trainer(*arguments, **changes):
    """A trainer of `write_infer_grad_run`, whose network does not predict zero."""
    trainer = new_trainer(write_infer_grad_run(*arguments, **changes))
    torch.nn.init.normal_(trainer.network.output_conv.weight)
    return trainer


def loss_of(trainer):
    return trainer.objective.of_stages[1]


def flat_gradient(trainer):
    return torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()])


@pytest.mark.parametrize(
    "infer_grad, schedule, changes, sampler",
    [
        ({}, '{"betas": [0.001, 0.05, 0.6], "sampler": "ddim"}', {}, "ddim"),
        ({"sampler": "ancestral"}, '{"betas": [0.001, 0.05, 0.6], "sampler": "ddim"}', {}, "ancestral"),
        ({"sampler": "ddim", "many_steps": 3, "many_steps_sampler": "ancestral"}, SCHEDULE, {}, "ancestral"),
        ({}, '{"betas": [0.01, 0.05, 0.3], "griffin_lim": 2}', {"prior__loudest": 2.0}, None),
    ],
)
def test_generates_what_inference_does(tmp_path, infer_grad, schedule, changes, sampler):
    """Fails if the steps, their schedule, sampler, start or noise are not those of inference."""
    trainer = infer_grad_trainer(tmp_path, infer_grad, schedule, **changes)
    loss, mel = loss_of(trainer), torch.randn(2, 20, 30)
    [schedule] = loss.schedules
    noises = loss.noises(torch.tensor([3, 7]), 3, 1200)
    [generated] = loss.results(trainer.network, schedule, mel, noises)
    inferred = make_pipeline(trainer.network, trainer.config, schedule, sampler)(mel, noises=noises.unbind(1))
    assert torch.equal(generated, inferred) and len(schedule) == 3
    trainer.step = 3
    assert trainer.train_step(first_batch(trainer)).updated


def test_a_changed_schedule_file_is_said_when_a_run_goes_on(tmp_path):
    """Fails if only the schedule's name is compared, or if a state from before it was kept is refused."""
    trainer = infer_grad_trainer(tmp_path)
    trainer.step = 6
    state = trainer.state_dict()
    changed = infer_grad_trainer(tmp_path, schedule='{"betas": [0.001, 0.6], "sampler": "ddim"}')
    changed.load_state_dict(state)
    assert state["starts"] == "noise" and changed_schedules(state, changed) == [
        "noise schedule three.json changed: betas was [0.001, 0.05, 0.6], is [0.001, 0.6]",
        "noise schedule three.json changed: sampler was sde-dpm-solver, is ddim",
    ]
    assert changed_schedules(state | {"schedules": None}, changed) == []


def test_random_schedules_take_their_share(tmp_path):
    """Fails if steps that are not drawn at random leave the schedule, or if a resumed run draws others."""
    infer_grad = {"random_share": 0.5, "random_steps": [2, 4]}
    first, second = (loss_of(infer_grad_trainer(tmp_path, infer_grad)) for _ in range(2))
    schedules = [first.schedule_at(step) for step in range(200)]
    drawn = [schedule for schedule in schedules if schedule is not first.schedules[0]]
    assert 70 < len(drawn) < 130
    assert {len(schedule) for schedule in drawn} == {2, 3, 4}
    assert all((a.betas == second.schedule_at(step).betas).all() for step, a in enumerate(schedules))
    trainer = infer_grad_trainer(tmp_path, {"random_share": 1.0, "random_steps": [5, 5]})
    trainer.step = 3  # of more steps than the run's own
    assert trainer.train_step(first_batch(trainer)).updated
    assert len({schedule.betas.tobytes() for schedule in drawn if len(schedule) > 2}) > 40  # of two steps, both are ends


def test_several_schedules_take_turns_at_random(tmp_path):
    """Fails if one of them is left out, or has another sampler than its own."""
    (tmp_path / "one.json").write_text('{"betas": [0.6], "sampler": "ddim", "griffin_lim": 2}')
    changes = {"noise_schedule": ["three.json", "one.json"], "random_share": 0.5, "random_steps": [5, 5]}
    loss = loss_of(infer_grad_trainer(tmp_path, changes))
    lengths = [len(loss.schedule_at(step)) for step in range(400)]
    shares = [lengths.count(n) / 400 for n in (1, 3, 5)]  # one step is no curve, and stays as it is
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert [loss.pipeline(None, schedule).step for schedule in loss.schedules] == [SAMPLERS["sde-dpm-solver"], SAMPLERS["ddim"]]


def test_diffusion_loss_counts_at_some_steps_only(tmp_path):
    """Fails if it has a gradient, or takes time, where it does not count."""
    trainer = infer_grad_trainer(tmp_path, {"from_step": 1, "every": 2, "diffusion_every": 2, "weight": 1e-9})
    norms, counts = [], [True, True, True, False, True, True]
    for trainer.step in range(6):
        batch = first_batch(trainer)
        figures = trainer._backward(batch)
        assert ("loss" in figures) == counts[trainer.step]
        if counts[trainer.step]:
            torch.testing.assert_close(figures["loss"], trainer.objective.diffusion(trainer.network, trainer.prepare(batch)))
        norms.append(flat_gradient(trainer).norm().item())
        trainer.optimizer.zero_grad()
    assert [norm > 1e-4 for norm in norms] == counts


def test_counts_before_and_after_the_correction(tmp_path):
    """Fails if only one of the two is compared, the correction has no gradient, or previews are not corrected."""
    corrected, plain = (new_trainer(write_infer_grad_run(tmp_path, {"gla_grad": n})) for n in (2, 0))
    y_0, mel, noises = torch.randn(2, 1200), torch.randn(2, 20, 30), torch.randn(2, 3, 1200)
    [schedule] = loss_of(corrected).schedules
    [generated] = loss_of(plain).results(plain.network, schedule, mel, noises)
    before, after = results = loss_of(corrected).results(corrected.network, schedule, mel, noises)
    assert torch.equal(before, generated) and torch.equal(after, GlaGrad(corrected.config.mel, 2)(generated, mel))
    expected = [loss_of(plain)(y_0, [result]) for result in results]
    torch.testing.assert_close(loss_of(corrected)(y_0, results), sum(expected) / 2)
    assert torch.autograd.grad(expected[1].sum(), before)[0].abs().sum() > 0
    [preview], [other] = (make_previews(trainer, preview_pipelines(trainer), 1) for trainer in (corrected, plain))
    assert preview.figures["log_mel_l1"] < 0.5 * other.figures["log_mel_l1"]


def test_an_example_has_noises_of_its_own(tmp_path):
    """Fails if they depend on the company of the example, or are those of another one or of another seed."""
    first, second = (loss_of(infer_grad_trainer(tmp_path, training__seed=seed)) for seed in (0, 1))
    noises = first.noises(torch.tensor([3, 7, 8]), 2, 1200)
    assert torch.equal(noises[1:2], first.noises(torch.tensor([7]), 2, 1200))
    rows = torch.cat([noises, second.noises(torch.tensor([3]), 2, 1200)]).flatten(0, 1)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.15 and abs(rows.std().item() - 1) < 0.03


def test_previews_are_sampled_as_it_trains(tmp_path):
    """Fails if what one sees of a run is not what InferGrad improves."""
    trainer = infer_grad_trainer(tmp_path)
    pipelines = preview_pipelines(trainer)
    [preview] = make_previews(trainer, pipelines, 1)
    assert list(pipelines) == list(preview.results) == ["six_steps", "six_steps_averaged", "trained"]
    assert pipelines["six_steps"].network is trainer.network
    pipeline, mel = pipelines["trained"], preview.recording_mel[None]
    assert torch.equal(preview.results["trained"], pipeline(mel, torch.Generator().manual_seed(0))[0])
    assert pipeline.schedule is loss_of(trainer).schedules[0] and pipeline.network is trainer.ema.module


def test_gradients_pass_through_all_steps(tmp_path):
    """Fails if only the last step learns: each noise reaches the result, and so does each weight."""
    trainer = new_trainer(write_infer_grad_run(tmp_path, {"diffusion_every": 2}))
    given, loss = trainer.prepare(first_batch(trainer)), loss_of(trainer)
    noises = torch.randn(4, 3, 1200, requires_grad=True)
    loss(given.y_0, loss.results(trainer.network, loss.schedules[0], given.mel, noises)).sum().backward()
    assert (noises.grad.abs().sum(dim=(0, 2)) > 0).all()
    assert all((parameter.grad != 0).any() for parameter in trainer.network.parameters())


def test_counts_from_its_step_on_with_its_weight(tmp_path):
    """The gradient is that of the diffusion loss, and later that of the weighted sum; every other step has the one or the other."""
    gradients, figures = {}, {}
    for name, step, infer_grad in [("before", 2, {}), ("after", 3, {}), ("alone", 4, {"diffusion_every": 2})]:
        trainer = infer_grad_trainer(tmp_path, infer_grad)
        torch.manual_seed(0)
        torch.nn.init.normal_(trainer.network.output_conv.weight)
        trainer.step = step
        figures[name] = trainer._backward(first_batch(trainer))
        gradients[name] = flat_gradient(trainer)
    names = {"before": {"loss"}, "after": {"loss", "infer_grad_loss"}, "alone": {"infer_grad_loss"}}
    assert {name: set(of_step) for name, of_step in figures.items()} == names and figures["after"]["infer_grad_loss"].shape == (4,)
    assert gradients["alone"].norm() > 1e-3  # with the weight
    torch.testing.assert_close(gradients["after"], gradients["before"] + gradients["alone"], atol=1e-5, rtol=1e-3)
    trainer = infer_grad_trainer(tmp_path, {"from_step": 1, "every": 2})
    assert ["infer_grad_loss" in result.figures for result in train_steps(trainer, 6)] == [False, True] * 3


def test_loudness_is_added_with_its_weight(tmp_path):
    """Fails if the weight is forgotten, or if it is heard where it is not asked for."""
    y, generated = torch.randn(2, 2, 1200, generator=torch.Generator().manual_seed(0))
    plain, half = (loss_of(infer_grad_trainer(tmp_path, {"pmsqe_weight": weight})) for weight in (0.0, 0.5))
    added = half(y, [generated]) - plain(y, [generated])
    torch.testing.assert_close(added, 0.5 * PMSQE(SAMPLE_RATE)(y, generated), rtol=1e-4, atol=1e-4)


def test_may_be_added_to_a_run(tmp_path):
    """Says that it was, and logs its loss from then on."""
    config = write_run(tmp_path, data__segment_frames=30, training__n_steps=3)
    assert "infer grad loss" not in train_to_end(config, tmp_path / "log")
    said = train_to_end(write_infer_grad_run(tmp_path, training__log_every=1), tmp_path / "log")
    assert "training.infer_grad.weight was None, is 0.5" in said
    assert len([line for line in said.splitlines() if "  infer grad loss " in line]) == 3


@pytest.mark.parametrize(
    "infer_grad, changes, message",
    [
        ({"noise_schedule": "none.json"}, {}, "none.json"),
        ({"sampler": "guess"}, {}, "sampler 'guess'"),
        ({"random_steps": [5, 3]}, {}, r"random_steps is \[5, 3\]"),
        ({"random_share": 1.5}, {}, r"training\.infer_grad\.random_share"),
        ({"pmsqe_weight": 0.5}, {"mel__sample_rate": 48000, "mel__n_fft": 256, "mel__n_mels": 8}, r"1537 samples or more .*, got 1200"),
        ({}, {"data__segment_frames": 25}, r"data\.segment_frames: expected segments of 1025 samples or more .*, got 1000"),
    ],
)
def test_bad_configuration(tmp_path, infer_grad, changes, message):
    with pytest.raises((InputError, OSError), match=message):
        new_trainer(write_infer_grad_run(tmp_path, infer_grad, **changes))


def test_learns(tmp_path):
    """Fails if the distance is not brought down by what brings down the objective."""
    changes = {"training__n_steps": 40, "training__learning_rate": 3e-3, "training__warmup_steps": 0}
    trainer = new_trainer(write_infer_grad_run(tmp_path, {"from_step": 0, "weight": 10.0}, **changes))
    batch = first_batch(trainer)
    distances = [trainer.train_step(batch).figures["infer_grad_loss"] for _ in range(30)]
    assert distances[-1] < 0.9 * distances[0]
