"""InferGrad: generating in training, with gradients, on the steps that ask for it, for any number of processes."""

import pytest
import torch

from common.errors import InputError
from extensions.griffin_lim.gla_grad import GlaGrad
from extensions.infer_grad.pmsqe import PMSQE
from extensions.registry import make_pipeline
from model.config import load_config
from model.samplers import SAMPLERS
from tests.processes import TRAINING, run_to_end
from tests.training_fixtures import SAMPLE_RATE, one_thread, same, train_to_end, weights_of, write_run  # noqa: F401
from training.previews import make_previews, preview_pipeline
from training.trainer import Trainer

SCHEDULE = '{"betas": [0.001, 0.05, 0.6], "sampler": "sde-dpm-solver"}'
N_STEPS = 6


def write_infer_grad_run(folder, infer_grad=None, schedule=SCHEDULE, **changes):
    """A run of six steps, the last three of them with inference."""
    (folder / "three.json").write_text(schedule)
    infer_grad = {"noise_schedule": "three.json", "weight": 0.5, "from_step": 3} | (infer_grad or {})
    changes = {"data__segment_frames": 30, "training__n_steps": N_STEPS} | changes
    return write_run(folder, **changes, training__infer_grad=infer_grad)


def new_trainer(config):
    return Trainer(load_config(config), config.parent)


def first_batch(trainer):
    return next(iter(trainer.batches()))


def flat_gradient(trainer):
    return torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()])


def inferred(trainer, schedule, mel, noises, sampler=None):
    return make_pipeline(trainer.network, trainer.config, schedule, sampler)(mel, noises=noises.unbind(1))


def test_generates_what_inference_does(tmp_path):
    """Fails if the steps, their schedule or their noise are not those of the sampler."""
    trainer = new_trainer(write_infer_grad_run(tmp_path))
    torch.nn.init.normal_(trainer.network.output_conv.weight)
    mel, noises = torch.randn(2, 20, 30), torch.randn(2, 3, 1200)
    schedule = trainer.infer_grad_loss.schedule_at(5)
    [generated] = trainer.infer_grad_loss.results(trainer.network, schedule, mel, noises)
    assert torch.equal(generated, inferred(trainer, schedule, mel, noises)) and len(schedule) == 3


def test_samples_with_what_the_schedule_was_made_for(tmp_path):
    made_for_ddim = '{"betas": [0.001, 0.05, 0.6], "sampler": "ddim"}'
    for changes, sampler in [({}, "ddim"), ({"sampler": "ancestral"}, "ancestral")]:
        loss = new_trainer(write_infer_grad_run(tmp_path, changes, schedule=made_for_ddim)).infer_grad_loss
        assert loss.pipeline(None, loss.schedules[0]).step is SAMPLERS[sampler]


def test_a_changed_schedule_file_is_said_when_a_run_goes_on(tmp_path):
    """Fails if only the schedule's name is compared, or if a state from before it was kept is refused."""
    state = new_trainer(write_infer_grad_run(tmp_path)).state_dict()
    assert state["starts"] == "noise"
    lines, _ = new_trainer(write_infer_grad_run(tmp_path, schedule='{"betas": [0.001, 0.6], "sampler": "ddim"}')).load_state_dict(state)
    assert lines == [
        "noise schedule three.json changed: betas was [0.001, 0.05, 0.6], is [0.001, 0.6]",
        "noise schedule three.json changed: sampler was sde-dpm-solver, is ddim",
    ]
    del state["schedules"]
    assert new_trainer(write_infer_grad_run(tmp_path)).load_state_dict(state)[0] == []


@pytest.mark.parametrize("many_steps, sampler", [(3, "ancestral"), (4, "ddim")])
def test_many_steps_have_their_own_sampler(tmp_path, many_steps, sampler):
    """Fails if a schedule of `many_steps` is sampled as fewer are, or a shorter one as many are."""
    changes = {"sampler": "ddim", "many_steps": many_steps, "many_steps_sampler": "ancestral"}
    trainer = new_trainer(write_infer_grad_run(tmp_path, changes))
    torch.nn.init.normal_(trainer.network.output_conv.weight)
    mel, noises = torch.randn(1, 20, 30), torch.randn(1, 3, 1200)
    schedule = trainer.infer_grad_loss.schedules[0]
    [generated] = trainer.infer_grad_loss.results(trainer.network, schedule, mel, noises)
    assert torch.equal(generated, inferred(trainer, schedule, mel, noises, sampler))


def test_random_schedules_take_their_share(tmp_path):
    """Fails if steps that are not drawn at random leave the schedule, or if a resumed run draws others."""
    infer_grad = {"random_share": 0.5, "random_steps": [2, 4]}
    first, second = (new_trainer(write_infer_grad_run(tmp_path, infer_grad)).infer_grad_loss for _ in range(2))
    schedules = [first.schedule_at(step) for step in range(200)]
    drawn = [schedule for schedule in schedules if schedule is not first.schedules[0]]
    assert 70 < len(drawn) < 130
    assert {len(schedule) for schedule in drawn} == {2, 3, 4}
    assert all((a.betas == second.schedule_at(step).betas).all() for step, a in enumerate(schedules))
    assert len({schedule.betas.tobytes() for schedule in drawn if len(schedule) > 2}) > 40  # of two steps, both are ends


def test_trains_on_random_schedules(tmp_path):
    """Fails if a schedule longer than the run's own finds too few noises."""
    changes = {"random_share": 1.0, "random_steps": [5, 5], "sampler": "ancestral"}
    trainer = new_trainer(write_infer_grad_run(tmp_path, changes))
    trainer.step = 3
    assert len(trainer.infer_grad_loss.schedule_at(3)) == 5
    assert trainer.train_step(first_batch(trainer)).updated


def test_several_schedules_take_turns_at_random(tmp_path):
    """Fails if one of them is left out, or has another sampler than its own."""
    (tmp_path / "one.json").write_text('{"betas": [0.6], "sampler": "ddim", "griffin_lim": 2}')
    changes = {"noise_schedule": ["three.json", "one.json"], "random_share": 0.5, "random_steps": [5, 5]}
    loss = new_trainer(write_infer_grad_run(tmp_path, changes)).infer_grad_loss
    lengths = [len(loss.schedule_at(step)) for step in range(400)]
    shares = [lengths.count(n) / 400 for n in (1, 3, 5)]  # one step is no curve, and stays as it is
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert [loss.pipeline(None, schedule).step for schedule in loss.schedules] == [SAMPLERS["sde-dpm-solver"], SAMPLERS["ddim"]]


def test_generates_from_an_estimate(tmp_path):
    """Fails if training starts elsewhere than inference does."""
    trainer = new_trainer(write_infer_grad_run(tmp_path, schedule='{"betas": [0.05, 0.3], "griffin_lim": 2}', prior__loudest=2.0))
    torch.nn.init.normal_(trainer.network.output_conv.weight)
    mel, [schedule] = torch.randn(2, 20, 30), trainer.infer_grad_loss.schedules
    noises = trainer.infer_grad_loss.noises(torch.tensor([3, 7]), 2, 1200)
    [generated] = trainer.infer_grad_loss.results(trainer.network, schedule, mel, noises)
    assert torch.equal(generated, inferred(trainer, schedule, mel, noises))
    trainer.step = 3
    assert trainer.train_step(first_batch(trainer)).updated


def test_diffusion_loss_counts_at_some_steps_only(tmp_path):
    """Fails if it has a gradient where it does not count, or is not measured there."""
    trainer = new_trainer(write_infer_grad_run(tmp_path, {"from_step": 1, "every": 2, "diffusion_every": 2, "weight": 1e-9}))
    torch.nn.init.normal_(trainer.network.output_conv.weight)
    norms = []
    for trainer.step in range(6):
        batch = first_batch(trainer)
        losses, _ = trainer._backward(batch)
        torch.testing.assert_close(losses, trainer.losses(trainer.network, batch))
        norms.append(flat_gradient(trainer).norm().item())
        trainer.optimizer.zero_grad()
    assert [norm > 1e-4 for norm in norms] == [True, True, True, False, True, True]


def test_counts_before_and_after_the_correction(tmp_path):
    """Fails if only one of the two is compared, the correction has no gradient, or previews are not corrected."""
    corrected, plain = (new_trainer(write_infer_grad_run(tmp_path, {"gla_grad": n})) for n in (2, 0))
    y_0, mel, noises = torch.randn(2, 1200), torch.randn(2, 20, 30), torch.randn(2, 3, 1200)
    [schedule] = corrected.infer_grad_loss.schedules
    [generated] = plain.infer_grad_loss.results(plain.network, schedule, mel, noises)
    before, after = results = corrected.infer_grad_loss.results(corrected.network, schedule, mel, noises)
    assert torch.equal(before, generated) and torch.equal(after, GlaGrad(corrected.config.mel, 2)(generated, mel))
    expected = [plain.infer_grad_loss(y_0, [result]) for result in results]
    torch.testing.assert_close(corrected.infer_grad_loss(y_0, results), sum(expected) / 2)
    assert torch.autograd.grad(expected[1].sum(), before)[0].abs().sum() > 0
    [preview], [other] = (make_previews(trainer, preview_pipeline(trainer), 1) for trainer in (corrected, plain))
    assert preview.figures["log_mel_l1"] < 0.5 * other.figures["log_mel_l1"]


def test_an_example_has_noises_of_its_own(tmp_path):
    """Fails if they depend on the company of the example, or are those of another one or of another seed."""
    first, second = (new_trainer(write_infer_grad_run(tmp_path, training__seed=seed)).infer_grad_loss for seed in (0, 1))
    noises = first.noises(torch.tensor([3, 7, 8]), 2, 1200)
    assert torch.equal(noises[1:2], first.noises(torch.tensor([7]), 2, 1200))
    rows = torch.cat([noises, second.noises(torch.tensor([3]), 2, 1200)]).flatten(0, 1)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.15 and abs(rows.std().item() - 1) < 0.03


def test_previews_are_sampled_as_it_trains(tmp_path):
    """Fails if what one sees of a run is not what InferGrad improves."""
    trainer = new_trainer(write_infer_grad_run(tmp_path))
    torch.nn.init.normal_(trainer.ema.module.output_conv.weight)
    pipeline = preview_pipeline(trainer)
    [preview] = make_previews(trainer, pipeline, 1)
    assert torch.equal(preview.result, pipeline(preview.recording_mel[None], torch.Generator().manual_seed(0))[0])
    assert pipeline.schedule is trainer.infer_grad_loss.schedules[0] and pipeline.network is trainer.ema.module


def test_gradients_pass_through_all_steps(tmp_path):
    """Fails if only the last step learns: each noise reaches the result, and so does each weight."""
    trainer = new_trainer(write_infer_grad_run(tmp_path))
    noises = torch.randn(2, 3, 1200, requires_grad=True)
    batch = first_batch(trainer)
    trainer.infer_grad_loss.noises = lambda *_: noises
    trainer.inference(trainer.network, batch.split(2)[0], trainer.infer_grad_loss.schedules[0]).losses.sum().backward()
    assert (noises.grad.abs().sum(dim=(0, 2)) > 0).all()
    assert all((parameter.grad != 0).any() for parameter in trainer.network.parameters())


def test_counts_from_its_step_on_with_its_weight(tmp_path):
    """The gradient is that of the diffusion loss, and later that of the weighted sum."""
    trainer = new_trainer(write_infer_grad_run(tmp_path))
    batch = first_batch(trainer)
    gradients = {}
    for name, step in {"before": 2, "after": 3}.items():
        trainer.step = step
        trainer.optimizer.zero_grad()
        losses, distances = trainer._backward(batch)
        assert len(distances) == (0 if name == "before" else len(losses))
        gradients[name] = flat_gradient(trainer)
    trainer.optimizer.zero_grad()
    trainer.inference(trainer.network, batch, trainer.infer_grad_loss.schedules[0]).losses.mean().backward()
    torch.testing.assert_close(gradients["after"], gradients["before"] + 0.5 * flat_gradient(trainer), atol=1e-5, rtol=1e-4)


def test_learns(tmp_path):
    """Fails if the distance is not brought down by what brings down the objective."""
    changes = {"training__n_steps": 40, "training__learning_rate": 3e-3, "training__warmup_steps": 0}
    trainer = new_trainer(write_infer_grad_run(tmp_path, {"from_step": 0, "weight": 10.0}, **changes))
    batch = first_batch(trainer)
    distances = [trainer.train_step(batch).infer_grad_loss for _ in range(40)]
    assert distances[-1] < 0.9 * distances[0]


def test_loudness_is_added_with_its_weight(tmp_path):
    """Fails if the weight is forgotten, or if it is heard where it is not asked for."""
    y, generated = torch.randn(2, 2, 1200, generator=torch.Generator().manual_seed(0))
    plain, half = (new_trainer(write_infer_grad_run(tmp_path, {"pmsqe_weight": weight})).infer_grad_loss for weight in (0.0, 0.5))
    added = half(y, [generated]) - plain(y, [generated])
    torch.testing.assert_close(added, 0.5 * PMSQE(SAMPLE_RATE)(y, generated), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"training__micro_batch_size": 1}])
def test_two_processes_have_the_gradient_of_one(tmp_path, changes):
    """Fails if gradients of several calls in a step are not exchanged rightly, or if processes or portions draw other noise."""
    for n_processes, own in [(1, {}), (2, changes)]:
        config = write_infer_grad_run(tmp_path, {"from_step": 0}, training__n_steps=1, **own)
        train_to_end(config, tmp_path / str(n_processes), n_processes=n_processes)
    one, two = (weights_of(tmp_path / str(n) / "checkpoint-00000001.pt")["optimizer"]["state"] for n in (1, 2))
    gradients = [(one[i]["exp_avg"], two[i]["exp_avg"]) for i in one]  # a tenth of the first step's gradient
    assert max(a.abs().max().item() for a, _ in gradients) > 1e-3
    assert max((a - b).abs().max().item() for a, b in gradients) < 1e-6


def train_steps(trainer, n_steps):
    for _, batch in zip(range(n_steps), trainer.batches()):
        trainer.train_step(batch)
    return trainer.state_dict()


def test_interrupted_run_ends_with_the_same_state(tmp_path):
    """Fails if the noise of inference, or when it counts, depends on where the run was started."""
    config = write_infer_grad_run(tmp_path)
    whole = train_steps(new_trainer(config), N_STEPS)
    state = train_steps(new_trainer(config), 4)
    resumed = new_trainer(config)
    resumed.load_state_dict(state)
    assert same(whole, train_steps(resumed, N_STEPS - 4))


def test_every_other_step(tmp_path):
    trainer = new_trainer(write_infer_grad_run(tmp_path, {"from_step": 1, "every": 2}))
    results = [trainer.train_step(batch) for batch in trainer.batches()]
    assert [result.infer_grad_loss is not None for result in results] == [False, True, False, True, False, True]


def test_may_be_added_to_a_run(tmp_path):
    """Says that it was, and logs its loss from then on."""
    config = write_run(tmp_path, data__segment_frames=30, training__n_steps=3)
    assert "InferGrad loss" not in train_to_end(config, tmp_path / "log")
    output = train_to_end(write_infer_grad_run(tmp_path, training__log_every=1), tmp_path / "log")
    assert "training.infer_grad.weight was None, is 0.5" in output
    assert len([line for line in output.splitlines() if "  InferGrad loss " in line]) == 3


def test_dry_run_measures_both_kinds_of_step(tmp_path):
    result = run_to_end(*TRAINING, "-c", write_infer_grad_run(tmp_path), "--dry-run", "--nproc", 1)
    assert (result.returncode, result.stderr) == (0, "")
    assert "measured step: " in result.stdout and "measured step with inference: " in result.stdout


@pytest.mark.parametrize(
    "infer_grad, changes, message",
    [
        ({"noise_schedule": "none.json"}, {}, "none.json"),
        ({"sampler": "guess"}, {}, "sampler 'guess'"),
        ({"many_steps_sampler": "guess"}, {}, "sampler 'guess'"),
        ({"weight": 0.0}, {}, r"training\.infer_grad\.weight"),
        ({"random_steps": [5, 3]}, {}, r"random_steps is \[5, 3\]"),
        ({"pmsqe_weight": -1.0}, {}, r"training\.infer_grad\.pmsqe_weight"),
        ({"random_share": 1.5}, {}, r"training\.infer_grad\.random_share"),
        ({"pmsqe_weight": 0.5}, {"mel__sample_rate": 48000, "mel__n_fft": 256, "mel__n_mels": 8}, r"1200 samples \(.*1537 or more\)"),
        ({}, {"data__segment_frames": 25}, r"segments of 1000 samples \(wanted by training\.infer_grad: 1025 or more\)"),
    ],
)
def test_bad_configuration(tmp_path, infer_grad, changes, message):
    with pytest.raises((InputError, OSError), match=message):
        new_trainer(write_infer_grad_run(tmp_path, infer_grad, **changes))
