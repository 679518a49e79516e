"""Folders of the Hugging Face hub: written and read back without a network, strictly."""

import json
import socket

import pytest
import safetensors.torch
import torch

from common.errors import InputError
from model.checkpoint import load_network
from model.hub import PretrainedWaveGrad
from model.mel.statistics import mel_statistics


@pytest.fixture
def folder(tmp_path, tiny_config):
    torch.manual_seed(0)
    network = PretrainedWaveGrad(tiny_config)
    network.mel_statistics = mel_statistics([torch.randn(20, 9)])
    network.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def test_a_saved_folder_gives_back_everything(folder, tiny_config):
    network = PretrainedWaveGrad.from_pretrained(folder)
    assert network.config == tiny_config and network.mel_statistics.n_frames == 9 and not network.training
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    plain, config = load_network(folder / "model.safetensors")
    assert config == tiny_config
    arguments = torch.randn(1, 80), torch.randn(1, 20, 2), torch.ones(1)
    with torch.inference_mode():
        assert torch.equal(network(*arguments), plain(*arguments))
    network.save_pretrained(folder.parent / "again")
    again = PretrainedWaveGrad.from_pretrained(folder.parent / "again")
    assert again.config == network.config and again.mel_statistics == network.mel_statistics
    for ours, theirs in zip(again.parameters(), network.parameters()):
        assert torch.equal(ours, theirs)


def test_config_json_is_the_configuration(folder, tiny_config):
    values = json.loads((folder / "config.json").read_text())
    assert values["mel"] == json.loads(tiny_config.mel.model_dump_json())
    assert values["network"] == json.loads(tiny_config.network.model_dump_json())


def test_any_checkpoint_can_become_such_a_folder(tiny_checkpoint, tmp_path, tiny_network):
    PretrainedWaveGrad.from_checkpoint(tiny_checkpoint).save_pretrained(tmp_path / "hub")
    network = PretrainedWaveGrad.from_pretrained(str(tmp_path / "hub"))
    for ours, theirs in zip(network.parameters(), tiny_network.parameters()):
        assert torch.equal(ours, theirs)


def test_weights_that_do_not_fit_are_refused(folder):
    path = folder / "model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del weights["mel_conv.bias"]
    safetensors.torch.save_file(weights, path, metadata)
    with pytest.raises(InputError, match="'mel_conv.bias' is missing"):
        PretrainedWaveGrad.from_pretrained(folder)


def test_a_config_json_of_another_model_is_refused(folder):
    values = json.loads((folder / "config.json").read_text())
    values["mel"]["f_max"] = 3000.0
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="mel.f_max is 4000.0 .wanted by the configuration: 3000.0"):
        PretrainedWaveGrad.from_pretrained(folder)


def test_a_local_folder_needs_no_network(folder, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert PretrainedWaveGrad.from_pretrained(folder).config.mel.n_mels == 20
