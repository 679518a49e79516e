"""A checkpoint loads whole and strictly, or not at all, and is written whole or not at all."""

import contextlib
import random

import pytest
import safetensors.torch
import torch

from common.errors import InputError
from extensions.registry import load_network, read_checkpoint
from model.checkpoint import save_weights, schedule_warnings
from model.noise_schedule import NoiseSchedule
from runs.convert import main as convert
from tests.conftest import ROOT, changed_config

SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])


def training_state(network, config):
    weights = network.state_dict()
    return {"network": {k: v + 1 for k, v in weights.items()}, "ema": weights, "step": 5, "config": config.model_dump_json()}


def write_weights(path, metadata=None):
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata)


def write_checkpoint(network, config, path):
    if path.suffix == ".pt":
        torch.save(training_state(network, config), path)
    else:
        save_weights(network, config, path)


@SUFFIXES
def test_a_checkpoint_gives_back_the_network(tmp_path, tiny_network, tiny_config, suffix):
    """Of a training state, the averaged weights."""
    write_checkpoint(tiny_network, tiny_config, tmp_path / f"a{suffix}")
    network, config = load_network(tmp_path / f"a{suffix}")
    assert config == tiny_config
    arguments = torch.randn(1, 80), torch.randn(1, 20, 2), torch.ones(1)
    with torch.inference_mode():
        assert torch.equal(network(*arguments), tiny_network(*arguments))


@pytest.mark.parametrize("key, value", [("network.upsampling_channels", [8, 8, 4]), ("mel.log", "ln")])
def test_another_configuration_is_refused_with_the_key_and_both_values(tiny_checkpoint, key, value):
    with pytest.raises(InputError, match=rf"tiny.safetensors: {key} is .* \(expected by the configuration: .*\)"):
        load_network(tiny_checkpoint, changed_config(**{key.replace(".", "__"): value}))
    load_network(tiny_checkpoint, changed_config(training__batch_size=99))


@SUFFIXES
def test_no_flipped_bit_of_a_checkpoint_gives_other_weights(tmp_path, tiny_network, tiny_config, suffix):
    """Fails if checksums are not looked at: one flipped bit of a weight is another waveform."""
    path = tmp_path / f"flipped{suffix}"
    write_checkpoint(tiny_network, tiny_config, path)
    content, refused = path.read_bytes(), 0
    wanted = read_checkpoint(path)
    for position in random.Random(0).sample(range(len(content)), 100):
        path.write_bytes(content[:position] + bytes([content[position] ^ 64]) + content[position + 1 :])
        try:
            found = read_checkpoint(path)
        except InputError:
            refused += 1
        else:
            assert found.config == wanted.config
            assert all(torch.equal(found.weights[name], tensor) for name, tensor in wanted.weights.items()), position
    assert refused > 50


@pytest.mark.parametrize(
    "infer_grad, stages, starts",
    [
        (None, None, "noise"),
        ({"noise_schedule": "../schedules/universal-22k-1.json"}, None, "estimate"),
        ({"noise_schedule": ["universal-22k-1.json", "wg-6.json"]}, None, "estimate,noise"),
        ({"noise_schedule": "none.json"}, None, None),
        ({"noise_schedule": "universal-22k-1.json"}, [{"n_steps": 10}, {"n_steps": 10, "infer_grad": False}], "noise"),
    ],
)
def test_a_checkpoint_says_what_its_sampling_starts_from(tmp_path, tiny_network, infer_grad, stages, starts):
    """Fails if a file from before it said so is not told by its configuration, or if `convert` loses it."""
    config = changed_config(training__infer_grad=infer_grad, training__stages=stages)
    save_weights(tiny_network, config, tmp_path / "old.safetensors")
    convert([str(tmp_path / "old.safetensors"), str(tmp_path / "new.safetensors")])
    assert [read_checkpoint(tmp_path / f"{name}.safetensors").starts for name in ("old", "new")] == [starts, starts]


def test_the_starts_of_a_file_are_those_of_its_training(tmp_path, tiny_network, tiny_config):
    state = training_state(tiny_network, tiny_config)
    for said, words in [("estimate", None), ("estimates", "starts is 'estimates'"), (1, "'starts' is a int")]:
        torch.save(state | {"starts": said}, tmp_path / "state.pt")
        with pytest.raises(InputError, match=f"state.pt: {words}") if words else contextlib.nullcontext():
            assert read_checkpoint(tmp_path / "state.pt").starts == said


def test_a_schedule_that_the_weights_were_not_trained_for_is_warned_of():
    of_noise, of_estimate = NoiseSchedule([0.1, 0.5]), NoiseSchedule([0.15], griffin_lim=3)
    for starts, n_lines in [("noise", (0, 1)), ("estimate", (1, 0)), ("estimate,noise", (0, 0)), (None, (0, 0))]:
        assert (len(schedule_warnings(of_noise, starts)), len(schedule_warnings(of_estimate, starts))) == n_lines
    assert "starts from noise, and the weights were not trained for that" in schedule_warnings(of_noise, "estimate")[0]


def test_weights_in_half_precision_are_read_as_float32(tmp_path, tiny_network, tiny_config):
    """Fails if the file is not half as large, or a network computes in the precision of its file."""
    save_weights(tiny_network, tiny_config, tmp_path / "full.safetensors")
    convert([str(tmp_path / "full.safetensors"), str(tmp_path / "half.safetensors"), "--half"])
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    network, _ = load_network(tmp_path / "half.safetensors")
    assert full - half == pytest.approx(2 * sum(parameter.numel() for parameter in network.parameters()), rel=0.02)
    for name, parameter in network.state_dict().items():
        assert torch.equal(parameter, tiny_network.state_dict()[name].half().float())


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("pickle.pt", lambda path: torch.save(path, path), "more than plain tensors"),
        ("tensor.pt", lambda path: torch.save(torch.zeros(1), path), "'config' and 'ema'"),
        ("bare.safetensors", lambda path: write_weights(path), "no configuration"),
        ("text.pt", lambda path: path.write_text("hello"), "not a checkpoint"),
        ("cut.pt", lambda path: path.write_bytes(b"PK\3\4" + bytes(1000)), "damaged"),
        ("damaged.safetensors", lambda path: write_weights(path, {"config": '{"mel": 1}'}), "configuration in the checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}.*{words}") as error:
        load_network(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.update(ema=[torch.zeros(1)]), "the weights are a list .expected: a dictionary"),
        (lambda state: state["ema"].update({"mel_conv.bias": torch.zeros(8, dtype=torch.int64)}), "'mel_conv.bias' is torch.int64"),
        (lambda state: state["ema"].update({"mel_conv.bias": torch.zeros(8).to_sparse()}), "'mel_conv.bias' is torch.sparse_coo"),
        (lambda state: state["ema"].update({"mel_conv.bias": 3}), "'mel_conv.bias' is a int"),
        (lambda state: state["ema"].update({5: torch.zeros(1)}), "unknown weight '5'"),
        (lambda state: state.update(config={"mel": 1}), "'config' is a dict .expected: text"),
        (lambda state: state.update(mel_statistics=7), "'mel_statistics' is a int"),
    ],
)
def test_entries_of_a_training_state_that_are_something_else_are_refused_by_name(tmp_path, tiny_network, tiny_config, change, words):
    state = training_state(tiny_network, tiny_config)
    change(state)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(InputError, match=f"state.pt: .*{words}") as error:
        load_network(tmp_path / "state.pt")
    assert "\n" not in str(error.value)


def test_released_weights_are_those_of_the_list_beside_them(tmp_path):
    """Fails if a flipped bit of a released file, which is older than the digest inside, is read."""
    for name in ("universal-22k.safetensors", "SHA256SUMS"):
        (tmp_path / name).write_bytes((ROOT / "checkpoints" / name).read_bytes())
    path = tmp_path / "universal-22k.safetensors"
    assert read_checkpoint(path).weights
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"universal-22k\.safetensors: the SHA-256 is not that in .*SHA256SUMS"):
        read_checkpoint(path)
