"""A network that works on the phases of a waveform is used like any other."""

import pytest
import torch

from extensions.registry import make_network
from extensions.streaming import SynthesisStream, push_all
from model.layers import merge_phases, split_phases
from model.noise_schedule import linear
from model.pipeline import Pipeline
from tests.conftest import changed_config, seeded_network
from tests.oracles import textbook


@pytest.fixture
def config():
    return changed_config(mel__hop_length=80, network__phases=2, network__mel_mean=-4.0, network__mel_std=2.0)


@pytest.fixture
def network(config):
    return seeded_network(config)


@pytest.mark.parametrize("n_phases", [1, 2, 4])
def test_the_rearrangement_is_orthonormal(n_phases):
    """Fails if samples are lost, doubled or scaled: white noise would not stay white."""
    identity = torch.eye(12)
    signals = split_phases(identity, n_phases)
    assert signals.shape == (12, n_phases, 12 // n_phases)
    assert torch.equal(signals[:, -1, 0].nonzero().flatten(), torch.tensor([n_phases - 1]))
    assert torch.equal(merge_phases(signals), identity)
    torch.testing.assert_close(signals.flatten(1) @ signals.flatten(1).T, identity)


@torch.inference_mode()
def test_the_mel_is_normalised_inside(network, config):
    plain = make_network(config.model_copy(update={"network": config.network.model_copy(update={"mel_mean": 0.0, "mel_std": 1.0})})).eval()
    plain.load_state_dict(network.state_dict())
    y, mel, noise_level = torch.randn(1, 480), torch.randn(1, 20, 6), torch.rand(1)
    torch.testing.assert_close(network(y, mel, noise_level), plain(y, (mel + 4) / 2, noise_level))


def test_a_stream_is_the_whole(network):
    pipeline, mel = Pipeline(network, linear(3, 1e-3, 0.9)), torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    pieces = torch.cat(list(push_all(SynthesisStream(pipeline), mel.split(7, dim=1))))
    whole = torch.cat(list(push_all(SynthesisStream(pipeline), [mel])))
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_the_textbook_form_agrees(network, config):
    y, mel, noise_level = torch.randn(2, 480), torch.randn(2, 20, 6), torch.rand(2)
    torch.testing.assert_close(textbook(network, config)(y, mel, noise_level), network(y, mel, noise_level), atol=1e-5, rtol=1e-4)
