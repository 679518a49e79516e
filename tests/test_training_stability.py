"""Silence, clipping, short clips, NaN, divergence: the run survives, or says that it cannot."""

import math
import re

import numpy as np
import pytest
import torch

from common.errors import InputError
from model.config import load_config
from tests.training_fixtures import same, speech, write_corpus, write_run
from training.loop import Loop
from training.monitor import Monitor
from training.previews import make_previews, mean_figures, preview_pipeline
from training.run_folder import RunFolder, read_state
from training.stability import LOSS_OF_SILENCE, WINDOW, StabilityGuard
from training.stop_signal import StopSignal
from training.trainer import Trainer


def trainer_of(config_path):
    return Trainer(load_config(config_path), config_path.parent)


DIFFICULT = {
    "silence": np.zeros(4000, np.float32),
    "clipped": np.clip(30 * speech(0.3, 0), -1, 1),
    "shorter than a segment": speech(0.3, 0)[:200],
    "shorter than a segment, silent": np.zeros(200, np.float32),
    "one click": np.eye(1, 4000, 2000, dtype=np.float32)[0],
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("audio", DIFFICULT.values(), ids=DIFFICULT)
def test_difficult_recordings_train(tmp_path, audio, precision):
    """Fails if a logarithm of nothing, or a recording padded with nothing, ends in NaN."""
    for name in ("train", "validation"):
        write_corpus(tmp_path, {f"{name}_difficult": audio}, name)
    trainer = trainer_of(write_run(tmp_path, training__precision=precision))
    for _, batch in zip(range(5), trainer.batches()):
        result = trainer.train_step(batch)
        assert result.updated and math.isfinite(result.loss) and math.isfinite(result.gradient_norm)
    assert math.isfinite(trainer.evaluate()[0])
    previews = make_previews(trainer, preview_pipeline(trainer), 1)
    assert torch.isfinite(previews[0].result).all() and torch.isfinite(previews[0].result_mel).all()
    assert all(math.isfinite(value) for value in mean_figures(previews).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_batch_changes_nothing(tmp_path, value):
    """Fails if a bad batch gets into weights, average or optimiser, or goes uncounted."""
    trainer = trainer_of(write_run(tmp_path))
    batches = trainer.batches()
    trainer.train_step(next(batches))
    before = {key: state for key, state in copied(trainer.state_dict()).items() if key in ("network", "ema", "optimizer")}
    batch = next(batches)
    batch.segment[2, 30] = value
    result = trainer.train_step(batch)
    assert not result.updated
    assert [key for key, state in before.items() if not same(state, trainer.state_dict()[key])] == []
    trainer.guard.observe(result.loss, result.updated)
    assert trainer.guard.n_skipped == 1
    assert trainer.train_step(next(batches)).updated


def copied(state):
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 1}, {"infer_grad": True}], ids=str)
def test_a_step_waits_for_the_device_once(tmp_path, monkeypatch, changes):
    """Fails if a number is fetched apart from the others: on a GPU, each time nothing runs until it is there."""
    if "infer_grad" in changes:
        schedule = tmp_path / "schedule.json"
        schedule.write_text('{"name": "three", "betas": [0.01, 0.1, 0.5]}')
        changes = {"infer_grad": {"noise_schedule": schedule.name, "weight": 1.0}}
    config = write_run(tmp_path, **{f"training__{key}": value for key, value in changes.items()}, data__segment_frames=64)
    trainer = trainer_of(config)
    batches = trainer.batches()
    trainer.train_step(next(batches))
    waits, batch = [], next(batches)
    # The count of the averages and the numbers of the examples are on the CPU anyway.
    trainer.ema.update_parameters = without_counting(trainer.ema.update_parameters, waits)
    if trainer.infer_grad_loss:
        trainer.infer_grad_loss.noises = without_counting(trainer.infer_grad_loss.noises, waits)
    for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"):
        method = getattr(torch.Tensor, name)

        def counted(tensor, *arguments, method=method, name=name, **keywords):
            waits.append(name)
            return method(tensor, *arguments, **keywords)

        monkeypatch.setattr(torch.Tensor, name, counted)
    assert trainer.train_step(batch).updated
    assert waits == ["tolist"]


def without_counting(function, counted):
    def call(*arguments):
        before = len(counted)
        result = function(*arguments)
        del counted[before:]
        return result

    return call


def test_gradient_is_clipped(tmp_path):
    """Fails if the norm is only reported."""
    trainer = trainer_of(write_run(tmp_path, training__gradient_clip=0.5))
    result = trainer.train_step(next(trainer.batches()))
    assert result.gradient_norm > 0.5
    clipped = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm().item()
    assert clipped == pytest.approx(0.5, rel=1e-4)


def guard_after(losses, skip_limit=5, explosion_factor=3.0):
    guard = StabilityGuard(skip_limit, explosion_factor)
    return guard, [guard.observe(loss, math.isfinite(loss)) for loss in losses]


def test_guard_bears_noisy_losses():
    """Fails if single large losses, which noise levels near 1 bring, count as an explosion."""
    rng = np.random.default_rng(0)
    guard, said = guard_after([*rng.lognormal(-2, 0.8, 2000), 50.0, 60.0, *rng.lognormal(-2, 0.8, 100)])
    assert set(said) == {None} and guard.calm


def test_guard_bears_a_bad_beginning():
    """A network that starts far from zero is not a divergence; falling losses are not either."""
    _, said = guard_after(list(np.linspace(20, 0.2, 500)))
    assert set(said) == {None}


@pytest.mark.parametrize("before", [[0.1] * 200, []], ids=["after training", "from the start"])
def test_guard_sees_an_explosion(before):
    """Within the window, and the moment before does not count as calm."""
    losses = [*before, LOSS_OF_SILENCE, *[40.0] * (WINDOW + 1)]
    guard, said = guard_after(losses)
    assert "times its lowest value" in next(line for line in said if line)
    assert not guard.calm


def test_guard_sees_a_run_of_skipped_updates():
    _, said = guard_after([0.5, math.nan, math.nan, 0.5, *[math.nan] * 5])
    assert [line is not None for line in said] == [False] * 8 + [True]


def test_guard_resumes(tmp_path):
    """A resumed guard judges as one that was never interrupted."""
    guard, _ = guard_after(np.linspace(1, 0.1, 70))
    other = StabilityGuard(5, 3.0)
    other.load_state_dict(guard.state_dict())
    for loss in [math.nan, *np.linspace(0.1, 2, 80)]:
        assert guard.observe(loss, math.isfinite(loss)) == other.observe(loss, math.isfinite(loss))


class Breaking(Trainer):
    """A trainer whose weights are ruined whenever it reaches certain examples."""

    broken_at = ()
    factor = 2.0

    def train_step(self, batch):
        if self.position // self.config.training.batch_size in self.broken_at:
            with torch.no_grad():
                for parameter in self.network.parameters():
                    parameter.mul_(self.factor)
        return super().train_step(batch)


def run_breaking(config_path, logdir, broken_at, capsys, factor=2.0):
    """Runs a `Breaking` trainer to its end; returns exit status, trainer and output."""
    trainer = Breaking(load_config(config_path), config_path.parent)
    trainer.broken_at, trainer.factor = broken_at, factor
    sampling = preview_pipeline(trainer)
    folder = RunFolder(logdir, trainer.config.training.keep_checkpoints)
    folder.open()
    with StopSignal() as stop_signal:
        status = Loop(trainer, folder, Monitor(logdir, trainer, sampling.schedule), stop_signal, sampling).run(is_new=True)
    folder.close()
    return status, trainer, capsys.readouterr().out


def test_explosion_goes_back_with_a_lower_learning_rate(tmp_path, capsys):
    """Fails if the run goes on with ruined weights, repeats the examples that ruined them, or keeps the learning rate."""
    config = write_run(tmp_path, training__n_steps=180, training__save_every=20, training__log_every=50, training__keep_checkpoints=5)
    status, trainer, output = run_breaking(config, tmp_path / "log", range(110, 111), capsys)
    assert status == 0
    assert "times its lowest value" in output and "(1 of 3)" in output
    assert re.search(r"back to \S*checkpoint-00000(0\d\d|100)\.pt", output)  # before step 110
    assert trainer.step == 180 and trainer.n_rollbacks == 1
    assert trainer.position > 180 * 4  # behind the examples of the divergence
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-4)  # half the final one
    assert trainer.guard.calm and trainer.guard.lowest < 3
    assert RunFolder(tmp_path / "log", 3).newest()[1]["n_rollbacks"] == 1


def ruined_run(folder, capsys, **changes):
    """A run of 16 steps, ruined beyond repair at the sixth, so that it goes back; returns trainer and output."""
    config = write_run(folder, training__n_steps=16, training__skip_limit=3, **changes)
    status, trainer, output = run_breaking(config, folder / "log", [6], capsys, factor=math.nan)
    assert status == 0 and trainer.n_rollbacks == 1 and trainer.step == 16
    return trainer, output


def test_failed_saves_leave_the_first_checkpoint_to_go_back_to(tmp_path, capsys, monkeypatch):
    """Fails if a rollback looks for a checkpoint that was never written."""
    save = RunFolder.save

    def save_first_and_last(folder, state, milestone=False):
        if 0 < state["step"] < 16:
            raise OSError(28, "cannot save: No space left on device", "checkpoint")
        return save(folder, state, milestone)

    monkeypatch.setattr(RunFolder, "save", save_first_and_last)
    _, output = ruined_run(tmp_path, capsys, training__save_every=4)
    assert "warning: checkpoint: cannot save: No space left on device; training goes on" in output
    assert re.search(r"back to \S*checkpoint-00000000\.pt", output)


def test_after_a_return_to_an_earlier_stage_the_remaining_time_is_of_that_stage(tmp_path, capsys):
    stages = {"training__stages": [{"n_steps": 5}, {"n_steps": 11}]}
    _, output = ruined_run(tmp_path, capsys, **stages, training__save_every=2, training__keep_checkpoints=3, training__log_every=1)
    assert re.search(r"back to \S*checkpoint-00000004\.pt.*\nstep 5 .* remaining in stage 1 0:00:00\n", output), output


def test_no_checkpoint_to_go_back_to_is_one_line(tmp_path, capsys, monkeypatch):
    """As when somebody removes them from under the run."""
    monkeypatch.setattr(RunFolder, "checkpoints", lambda self: [])
    with pytest.raises(InputError, match="log: no checkpoint is left to go back to"):
        ruined_run(tmp_path, capsys)


def test_best_survives_a_return(tmp_path, capsys, monkeypatch):
    """Fails if `best.pt` is replaced by a worse one because the checkpoint gone back to does not know it."""
    losses = iter([0.3, *[0.7] * 10])
    monkeypatch.setattr(Trainer, "evaluate", lambda self: (next(losses), {}))
    trainer, output = ruined_run(tmp_path, capsys, training__validate_every=4, training__save_every=100)
    assert "validation loss 0.7" in output and trainer.best_validation_loss == 0.3


def test_best_is_what_was_written(tmp_path, capsys, monkeypatch):
    """Fails if a best loss is remembered whose `best.pt` a full disk refused."""
    losses, save_best = iter([0.3, 0.1, 0.2, 0.4]), RunFolder.save_best

    def refuse_one(folder, state):
        if state["best_validation_loss"] == 0.1:
            raise OSError(28, "cannot save: No space left on device", "best.pt")
        save_best(folder, state)

    monkeypatch.setattr(RunFolder, "save_best", refuse_one)
    monkeypatch.setattr(Trainer, "evaluate", lambda self: (next(losses), {}))
    config = write_run(tmp_path, training__n_steps=16, training__validate_every=4)
    _, trainer, _ = run_breaking(config, tmp_path / "log", [], capsys)
    assert trainer.best_validation_loss == 0.2
    assert read_state(tmp_path / "log" / "best.pt")["step"] == 12


def test_lasting_divergence_gives_up(tmp_path, capsys, monkeypatch):
    """Fails if the run loops for ever, or ends as if it had succeeded."""
    config = write_run(tmp_path, training__n_steps=100, training__skip_limit=4, training__max_rollbacks=2, training__save_every=10)
    losses = Trainer.losses
    monkeypatch.setattr(Trainer, "losses", lambda *arguments: losses(*arguments) * math.nan)
    status, trainer, output = run_breaking(config, tmp_path / "log", (), capsys)
    assert status == 1
    assert output.count("back to") == 2 and "giving up after 2 returns" in output
    assert "not finite 4 times in a row" in output
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


def test_learning_rate_follows_the_step(tmp_path):
    """Fails if the rate freezes (as with a period counted in epochs), skips the warm-up, or restarts on resuming."""
    config = write_run(tmp_path, training__n_steps=150, training__warmup_steps=10)
    trainer = trainer_of(config)
    rates = []
    for batch in trainer.batches():
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.train_step(batch)
    assert rates[:10] == pytest.approx([2e-3 * (i + 1) / 10 for i in range(10)])
    assert all(a > b for a, b in zip(rates[10:], rates[11:]))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)

    trainer, resumed = trainer_of(config), trainer_of(config)
    for _, batch in zip(range(60), trainer.batches()):
        trainer.train_step(batch)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.optimizer.param_groups[0]["lr"] == rates[60]
    resumed.train_step(next(resumed.batches()))
    assert resumed.optimizer.param_groups[0]["lr"] == rates[61]


def test_changed_learning_rate_takes_effect(tmp_path):
    """Fails if the optimiser's saved rate wins over the configuration's."""
    trainer = trainer_of(write_run(tmp_path))
    for _, batch in zip(range(8), trainer.batches()):
        trainer.train_step(batch)
    changed = trainer_of(write_run(tmp_path, training__learning_rate=2e-4, training__final_learning_rate=1e-5))
    changed.load_state_dict(trainer.state_dict())
    old, new = (t.optimizer.param_groups[0]["lr"] for t in (trainer, changed))
    assert new == pytest.approx(old / 10)


def test_validation_can_be_compared(tmp_path):
    """Fails if validation draws anew each time, or with another schedule than training does."""
    trainer = trainer_of(write_run(tmp_path))
    assert trainer.evaluate() == trainer.evaluate()
    levels = torch.stack([trainer.validation_examples[i].noise_level for i in range(128)])
    assert trainer.validation_examples.schedule is trainer.examples.schedule
    assert levels.min() < 0.3 and levels.max() > 0.9  # as far into the noise as training goes


def test_validation_on_the_training_data_is_the_training_loss(tmp_path):
    """The two curves measure the same: on the same recordings and weights they agree but for the draw."""
    config = write_run(tmp_path, data__validation_filelist="train.txt", training__batch_size=128)
    trainer = trainer_of(config)
    validation_loss, _ = trainer.evaluate()
    assert trainer.train_step(next(trainer.batches())).loss == pytest.approx(validation_loss, rel=1e-5)  # seed 0 for both


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_changes_nothing_but_memory(tmp_path, precision):
    plain = trainer_of(write_run(tmp_path, training__precision=precision))
    sparing = trainer_of(write_run(tmp_path, training__precision=precision, training__activation_checkpointing=True))
    for trainer in (plain, sparing):
        for _, batch in zip(range(3), trainer.batches()):
            trainer.train_step(batch)
    assert same(plain.network.state_dict(), sparing.network.state_dict())
    assert saved_bytes(sparing) < saved_bytes(plain) / 2
    sparing.evaluate()


def saved_bytes(trainer):
    """Bytes that a forward pass keeps for the backward pass."""
    total = 0

    def count(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trainer.losses(trainer.network, next(trainer.batches()))
    return total


def test_weights_loss_and_average_stay_in_float32(tmp_path):
    """Fails if mixed precision reaches what it must not."""
    trainer = trainer_of(write_run(tmp_path, training__precision="bf16"))
    result = trainer.train_step(next(trainer.batches()))
    assert result.losses.dtype == torch.float32
    dtypes = {p.dtype for network in (trainer.network, trainer.ema.module) for p in network.parameters()}
    assert dtypes == {torch.float32}
    seen = []
    trainer.network.dblocks[0].convs[0].register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    trainer.losses(trainer.network, next(trainer.batches()))
    assert seen == [torch.bfloat16]  # the convolutions are what is to be fast


@pytest.mark.gpu
def test_fp16_trains_on_a_gpu(tmp_path):
    """The first steps may be skipped, until the scaler has found its scale."""
    trainer = trainer_of(write_run(tmp_path, training__precision="fp16", training__n_steps=60))
    updated = [trainer.train_step(batch).updated for batch in trainer.batches()]
    assert all(updated[-20:])
    assert trainer.state_dict()["scaler"]["scale"] > 0
