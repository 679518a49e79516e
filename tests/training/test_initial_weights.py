"""Fine-tuning: a new run begins with given weights, and tells what it does not take over."""

import json

import pytest
import torch

from common.errors import InputError
from extensions.registry import make_network, read_checkpoint
from model.checkpoint import save_weights
from model.config import load_config
from tests.processes import run_processes
from tests.training_fixtures import first_batch, new_trainer, train_command, train_here, train_to_end, weights_of, write_run
from training.initial_weights import begin_with
from training.optimization import learning_rate

CONSTANT = {"learning_rate": 1e-9, "final_learning_rate": 1e-9}


def write_weights(config):
    """Writes random weights of a configuration beside it; returns their path and themselves."""
    torch.manual_seed(7)
    network = make_network(load_config(config))
    save_weights(network, load_config(config), config.parent / "w.safetensors")
    return config.parent / "w.safetensors", network.state_dict()


def begin(config, path, **options):
    trainer = new_trainer(config)
    return trainer, begin_with(trainer, read_checkpoint(path), path, **options)


def changed(config, section, **changes):
    """Another configuration beside `config`."""
    values = json.loads(config.read_text())
    values[section] |= changes
    other = config.parent / "other.json"
    other.write_text(json.dumps(values))
    return other


def test_a_run_goes_on_where_its_weights_were_saved(tmp_path):
    """Fails if stage, learning rate, examples or average are not those of the step, or if there is nothing to go back to."""
    stages = [{"n_steps": 3, "batch_size": 2, "learning_rate": 1e-2}, {"n_steps": 5, "learning_rate": 1e-4, "final_learning_rate": 1e-5}]
    config = write_run(tmp_path, n_steps=8, stages=stages, warmup_steps=0)
    train_to_end(config, tmp_path / "log")
    path = tmp_path / "log" / "checkpoint-00000005.pt"
    state = torch.load(path, weights_only=True)
    trainer, lines = begin(config, path, step=5)
    assert trainer.step == state["step"] == 5 and trainer.position == state["position"] and trainer.stage.number == 2
    assert trainer.ema.n_averaged == 5
    assert trainer.optimizer.param_groups[0]["lr"] == state["optimizer"]["param_groups"][0]["lr"]
    assert lines[0].endswith("checkpoint-00000005.pt at step 5")
    trainer.train_step(first_batch(trainer))
    assert trainer.optimizer.param_groups[0]["lr"] == learning_rate(trainer.stages, 6)
    with pytest.raises(InputError, match=r"--init_step: expected less than training.n_steps, 8, got 8"):
        begin(config, path, step=8)
    assert train_here(config, tmp_path / "again", init_from=path, step=7)[0] == 0
    assert (tmp_path / "again" / "checkpoint-00000007.pt").exists()


def test_weights_that_do_not_fit_are_listed_and_refused(tmp_path):
    config = write_run(tmp_path)
    path, weights = write_weights(changed(config, "network", downsampling_preconv_channels=6))
    with pytest.raises(InputError, match=r"weight .waveform_conv.weight. has shape \[6, .*\[4, .*--init_from_matching"):
        begin(config, path)
    trainer, lines = begin(config, path, matching_only=True)
    assert "left as they are: weight 'waveform_conv.weight' has shape" in lines[1]
    assert torch.equal(trainer.network.state_dict()["mel_conv.weight"], weights["mel_conv.weight"])


OTHERS = [
    ("mel", {"sample_rate": 16000}, "the weights were trained for other mels: mel.sample_rate is 16000 (here: 8000)"),
    ("network", {"noise_level_scale": 1.0}, "were trained in another network: network.noise_level_scale is 1.0 (here: 5000.0)"),
]


@pytest.mark.parametrize("section, changes, words", OTHERS)
def test_weights_of_another_training_that_fit_are_told(tmp_path, section, changes, words):
    """Fails if a model of another sample rate, or weights of another network, are fine-tuned without a word."""
    config = write_run(tmp_path)
    path, _ = write_weights(changed(config, section, **changes))
    [warning] = begin(config, path)[1][1:]
    assert warning.startswith("warning: ") and words in warning


def test_a_training_checkpoint_is_fine_tuned_from_the_command_line(tmp_path):
    """Fails if the run goes on instead of beginning, if processes begin with other weights, or if the same command does not resume."""
    train_to_end(write_run(tmp_path, n_steps=4), tmp_path / "first")
    start, logdir = tmp_path / "first" / "checkpoint-00000004.pt", tmp_path / "second"
    arguments = (write_run(tmp_path, n_steps=3, **CONSTANT), logdir, "--init_from", str(start))
    statuses, said = run_processes(train_command, *arguments, n_processes=2)
    assert statuses == [0, 0] and f"weights from {start}" in said, said
    status, said = train_here(write_run(tmp_path, n_steps=5, **CONSTANT), logdir, init_from=start)
    assert status == 0 and "going on from" in said and "weights from" not in said
    found, given = weights_of(logdir / "checkpoint-00000005.pt"), weights_of(start)
    assert found["step"] == 5
    for name, tensor in found["network"].items():
        torch.testing.assert_close(tensor, given["ema"][name], atol=1e-7, rtol=0)


def test_weights_that_are_not_there_are_one_line(tmp_path):
    """Also where only the first of two processes reads them."""
    arguments = (write_run(tmp_path), tmp_path / "log", "--init_from", str(tmp_path / "none.pt"))
    said = f"error: {tmp_path / 'none.pt'}: No such file or directory\n"
    assert run_processes(train_command, *arguments, n_processes=2) == ([2, 2], said)
    assert not (tmp_path / "log").exists()
