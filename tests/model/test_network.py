"""The network at any configuration. That it computes what the public implementations do is shown by tests/extensions/test_published.py."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.registry import make_network
from model import fast_layers
from model.config import NetworkConfig, load_config
from model.fast_layers import Conv1d
from model.network import FiLM, WaveGrad
from tests.conftest import ROOT, changed_config, tiny_config_values
from tests.oracles import textbook


def network_config(**values):
    return NetworkConfig.model_validate_json(json.dumps(values))


@pytest.mark.parametrize("name, wanted", [("default.json", 15_810_401), ("large.json", 23_911_777), ("small-16k.json", 1_798_177)])
def test_sizes(name, wanted):
    config = load_config(ROOT / "configs" / name)
    with torch.device("meta"):
        network = WaveGrad(config.network, config.mel.n_mels)
    assert sum(parameter.numel() for parameter in network.parameters()) == wanted


@settings(max_examples=15, deadline=None)
@given(
    factors=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    frames=st.integers(1, 9),
    batch=st.integers(1, 3),
    interpolation=st.sampled_from(["linear", "nearest"]),
    phases=st.sampled_from([1, 2, 4]),
)
@torch.inference_mode()
def test_any_factors_give_as_many_samples_as_the_mel_says(factors, frames, batch, interpolation, phases):
    factors = [5, *factors]
    n_dblocks = len([factor for factor in factors if factor > 1]) - 1
    config = network_config(
        factors=factors,
        upsampling_preconv_channels=6,
        upsampling_channels=[4] * len(factors),
        upsampling_dilations=[[1, 2, 4, 8]] * len(factors),
        downsampling_preconv_channels=2,
        downsampling_channels=[4] * n_dblocks,
        downsampling_dilations=[[1, 3]] * n_dblocks,
        interpolation=interpolation,
        phases=phases,
    )
    network = WaveGrad(config, n_mels=5)
    y_n = torch.randn(batch, frames * config.hop_length)
    predicted = network(y_n, torch.randn(batch, 5, frames), torch.rand(batch))
    assert predicted.shape == y_n.shape
    assert predicted.isfinite().all()


@torch.inference_mode()
def test_non_resampling_blocks_may_stand_among_the_dblocks_too():
    upsampling = {"factors": [5, 1, 4, 1, 2, 1], "upsampling_channels": [8] * 6, "upsampling_dilations": [[1, 2, 1, 2]] * 6}
    downsampling = {"downsampling_factors": [2, 1, 4, 1], "downsampling_channels": [8] * 4, "downsampling_dilations": [[1, 2, 4]] * 4}
    network = WaveGrad(network_config(**tiny_config_values()["network"] | upsampling | downsampling), n_mels=20)
    assert network(torch.randn(1, 120), torch.randn(1, 20, 3), torch.ones(1)).shape == (1, 120)


def test_refuses_a_waveform_that_does_not_fit_the_mel(tiny_network):
    with pytest.raises(ValueError, match="119 samples.*3 mel frames.*120"):
        tiny_network(torch.randn(1, 119), torch.randn(1, 20, 3), torch.ones(1))


def test_zero_output_predicts_no_noise_at_first():
    network = make_network(changed_config(network__zero_output=True))
    assert network(torch.randn(1, 40), torch.randn(1, 20, 1), torch.ones(1)).abs().max() == 0


def test_weights_start_orthogonal():
    weight = Conv1d(8, 4).weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(4))


def test_scale_and_shift_start_as_two_convolutions_do():
    """Fails if the merged convolution is initialised as one: its halves are smaller then."""
    for half in FiLM(16, 12, fast_layers).scale_shift.weight.chunk(2):
        torch.testing.assert_close(half.flatten(1) @ half.flatten(1).T, torch.eye(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_inference_in_bfloat16_is_float32_at_the_rate_of_the_waveform(training):
    """Fails if 8 bits of precision reach the waveform in inference, or if training in bfloat16 is not in bfloat16."""
    network = make_network(changed_config()).train(training)
    dtypes = {}
    for name, module in network.named_modules():
        if isinstance(module, Conv1d):
            module.register_forward_hook(lambda module, inputs, output, name=name: dtypes.update({name: output.dtype}))
    arguments = torch.randn(1, 200), torch.randn(1, 20, 5), torch.rand(1, dtype=torch.float64)
    with torch.no_grad():
        exact = network(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            y = network(*arguments)
    full_rate = ("waveform_conv", "films.0", f"ublocks.{len(network.ublocks) - 1}", "output_conv")
    for name, dtype in dtypes.items():
        float32 = not training and name.startswith(full_rate)
        assert dtype == (torch.float32 if float32 else torch.bfloat16), name
    assert y.dtype == torch.float32 and (exact - y).abs().mean() < 0.02 * exact.abs().mean()


@torch.inference_mode()
def test_the_textbook_form_is_the_same_network(default_config):
    """Fails if the fast layers compute something else than those that are read, in the order of the default network."""
    channels = {
        "upsampling_preconv_channels": 12,
        "upsampling_channels": (10, 8, 8, 6, 4),
        "downsampling_preconv_channels": 4,
        "downsampling_channels": (6, 6, 8, 8),
    }
    torch.manual_seed(0)
    config = default_config.model_copy(update={"network": default_config.network.model_copy(update=channels)})
    network = WaveGrad(config.network, 80)
    arguments = torch.randn(2, 3000), torch.randn(2, 80, 10), torch.rand(2, dtype=torch.float64)
    torch.testing.assert_close(textbook(network, config)(*arguments), network(*arguments), atol=1e-4, rtol=1e-4)
