"""Fine-tuning: a new run begins with given weights, and tells what it does not take over."""

import json

import pytest
import torch

from common.errors import InputError
from extensions.registry import make_network, read_checkpoint
from model.checkpoint import save_weights
from model.config import load_config
from tests.processes import finish, start_processes
from tests.training_fixtures import one_thread, same, train_command, train_to_end, weights_of, write_run  # noqa: F401
from training.initial_weights import begin_with
from training.optimization import learning_rate
from training.trainer import Trainer


def write_weights(config, path):
    torch.manual_seed(7)
    network = make_network(load_config(config))
    save_weights(network, load_config(config), path)
    return network.state_dict()


def begin(config, path, **options):
    trainer = Trainer(load_config(config), config.parent)
    return trainer, begin_with(trainer, read_checkpoint(path), path, **options)


def test_network_and_average_begin_with_the_weights(tmp_path):
    config = write_run(tmp_path)
    weights = write_weights(config, tmp_path / "w.safetensors")
    trainer, lines = begin(config, tmp_path / "w.safetensors")
    assert same(trainer.network.state_dict(), weights) and same(trainer.ema.module.state_dict(), weights)
    assert trainer.step == 0 and not trainer.optimizer.state
    assert lines == [f"beginning with {len(weights)} of {len(weights)} weights from {tmp_path / 'w.safetensors'}"]


def test_a_run_goes_on_where_its_weights_were_saved(tmp_path):
    """Fails if stage, learning rate, examples or average are not those of the step; only the optimiser's moments are lost."""
    stages = [{"n_steps": 3, "batch_size": 2, "learning_rate": 1e-2}, {"n_steps": 5, "learning_rate": 1e-4, "final_learning_rate": 1e-5}]
    config = write_run(tmp_path, training__n_steps=8, training__stages=stages, training__warmup_steps=0)
    train_to_end(config, tmp_path / "log")
    state = torch.load(tmp_path / "log" / "checkpoint-00000005.pt", weights_only=True)
    trainer, lines = begin(config, tmp_path / "log" / "checkpoint-00000005.pt", step=5)
    assert trainer.step == state["step"] == 5 and trainer.position == state["position"] and trainer.stage.number == 2
    assert trainer.ema.n_averaged == 5
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(state["optimizer"]["param_groups"][0]["lr"])
    assert lines[0].endswith("checkpoint-00000005.pt at step 5")
    trainer.train_step(next(iter(trainer.batches())))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate(trainer.stage.config.training, 3))
    with pytest.raises(InputError, match=r"--init_step is 8, but training.n_steps is 8 \(wanted: less\)"):
        begin(config, tmp_path / "log" / "checkpoint-00000005.pt", step=8)


def wider(config):
    values = json.loads(config.read_text())
    values["network"]["downsampling_preconv_channels"] = 6
    other = config.parent / "other.json"
    other.write_text(json.dumps(values))
    return other


def test_weights_that_do_not_fit_are_listed_and_refused(tmp_path):
    config = write_run(tmp_path)
    write_weights(wider(config), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"weight .waveform_conv.weight. has shape \[6, .*wanted: \[4, .*--init_from_matching"):
        begin(config, tmp_path / "w.safetensors")
    trainer, lines = begin(config, tmp_path / "w.safetensors", matching_only=True)
    assert "left as they are: weight 'waveform_conv.weight' has shape" in lines[1]
    given = read_checkpoint(tmp_path / "w.safetensors").weights
    assert torch.equal(trainer.network.state_dict()["mel_conv.weight"], given["mel_conv.weight"])


def test_other_mels_are_said(tmp_path):
    """Fails if a model of another sample rate is fine-tuned without a word."""
    config = write_run(tmp_path)
    values = json.loads(config.read_text())
    values["mel"] |= {"sample_rate": 16000, "mean": -3.0}
    (tmp_path / "other.json").write_text(json.dumps(values))
    write_weights(tmp_path / "other.json", tmp_path / "w.safetensors")
    _, lines = begin(config, tmp_path / "w.safetensors")
    assert "the weights were trained for other mels: mel.sample_rate is 16000 (here: 8000); mel.mean is -3.0 (here: 0.0)" in lines[1]


def test_weights_of_which_none_fits_are_refused(tmp_path):
    config = write_run(tmp_path)
    checkpoint = read_checkpoint_of(config, tmp_path)._replace(weights={"a": torch.zeros(1)})
    with pytest.raises(InputError, match="no weight fits"):
        begin_with(Trainer(load_config(config), tmp_path), checkpoint, "w", matching_only=True)


def read_checkpoint_of(config, folder):
    write_weights(config, folder / "w.safetensors")
    return read_checkpoint(folder / "w.safetensors")


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_training_checkpoint_is_fine_tuned_from_the_command_line(tmp_path, n_processes):
    """Fails if the run goes on instead of beginning, if processes begin with other weights, or if the same command does not resume."""
    train_to_end(write_run(tmp_path, training__n_steps=4), tmp_path / "first")
    start = tmp_path / "first" / "checkpoint-00000004.pt"
    config = write_run(tmp_path, training__n_steps=3, training__learning_rate=1e-9, training__final_learning_rate=1e-9)
    options = ["--init_from", start]
    for n_steps, log in [(3, "a"), (5, "b")]:
        config = write_run(tmp_path, training__n_steps=n_steps, training__learning_rate=1e-9, training__final_learning_rate=1e-9)
        processes = start_processes(
            train_command, config, tmp_path / "second", *map(str, options), n_processes=n_processes, log=tmp_path / log
        )
        assert finish(processes) == [0] * n_processes, (tmp_path / log).read_text()
    assert f"weights from {start}" in (tmp_path / "a").read_text() and "going on from" in (tmp_path / "b").read_text()
    found, wanted = weights_of(tmp_path / "second" / "checkpoint-00000005.pt"), weights_of(start)
    assert found["step"] == 5
    for name, tensor in found["network"].items():
        torch.testing.assert_close(tensor, wanted["ema"][name], atol=1e-7, rtol=0)


def test_weights_that_are_not_there_are_one_line(tmp_path):
    processes = start_processes(
        train_command, write_run(tmp_path), tmp_path / "log", "--init_from", str(tmp_path / "none.pt"), n_processes=2, log=tmp_path / "said"
    )
    assert finish(processes) == [2, 2]
    assert (tmp_path / "said").read_text() == f"error: {tmp_path / 'none.pt'}: No such file or directory\n"
    assert not (tmp_path / "log").exists()


def test_weights_of_another_network_that_fit_are_told(tmp_path):
    """Fails if weights of a network with look-ahead, or other dilations, are taken for those of this one without a word."""
    write_weights(write_run(tmp_path), tmp_path / "w.safetensors")
    config = write_run(tmp_path, network__causal=True)
    assert begin(config, tmp_path / "w.safetensors")[1][1:] == [
        "warning: the weights fit, but were trained in another network: network.causal is False (here: True)"
    ]


def test_a_run_that_begins_at_a_later_step_has_something_to_go_back_to(tmp_path):
    """Fails if a divergence before the first save ends it."""
    config = write_run(tmp_path, training__n_steps=8, training__save_every=100)
    write_weights(config, tmp_path / "w.safetensors")
    options = ["--init_from", str(tmp_path / "w.safetensors"), "--init_step", "5"]
    said = tmp_path / "said"
    assert finish(start_processes(train_command, config, tmp_path / "log", *options, log=said)) == [0], said.read_text()
    assert (tmp_path / "log" / "checkpoint-00000005.pt").exists()
