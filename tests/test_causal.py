"""A network without look-ahead: no later frame has an influence, and streams speak sooner."""

import pytest
import torch

from model.export import OnnxNetwork, example, export
from model.network import new_network
from model.noise_schedule import NoiseSchedule
from model.sampler import SAMPLERS
from model.streaming import SynthesisStream, synthesize_stream
from tests.conftest import config_of, tiny_config_values
from tests.oracles import whole_noises

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])


def causal_config(prior=None, **changes):
    values = tiny_config_values()
    values["network"] |= {"causal": True} | changes
    return config_of(values | ({"prior": prior} if prior else {}))


def causal_network(prior=None, **changes):
    torch.manual_seed(0)
    return new_network(causal_config(prior, **changes)).eval()


@pytest.mark.parametrize("changes", [{}, {"interpolation": "nearest"}, {"phases": 2, "factors": [5, 2, 2]}])
@torch.inference_mode()
def test_a_frame_depends_on_no_later_one(changes):
    """Fails if a convolution, or a change of rate, looks ahead; or if the context before is longer than said."""
    network = causal_network(**changes).double()
    context, frames = network.context_frames, network.context_frames + 20
    y, mel, level = torch.randn(1, frames * 40).double(), torch.randn(1, 20, frames).double(), torch.full((1,), 0.5).double()
    exact = network(y, mel, level)

    def differences(first, last):
        """Of the prediction, frame by frame, if the input is another one in these frames."""
        other_y, other_mel = y.clone(), mel.clone()
        other_y[:, first * 40 : last * 40] += 1
        other_mel[:, :, first:last] += 1
        return (network(other_y, other_mel, level) - exact).abs().unflatten(1, (frames, 40)).amax((0, 2))

    later = differences(context + 5, frames)
    assert later[: context + 5].max() == 0 and later[context + 5] > 0
    earlier = differences(0, 5)
    assert earlier[5] > 0 and earlier[5 + context :].max() == 0


@pytest.mark.parametrize("prior", [None, {"loudest": 2.0}])
@pytest.mark.parametrize("griffin_lim", [None, 0])
@pytest.mark.parametrize("piece", [1, 7])
def test_pieces_give_the_whole_with_a_short_latency(prior, griffin_lim, piece):
    """Fails if a frame is given before the prior or the estimate is known there."""
    schedule, network = NoiseSchedule(SCHEDULE.betas, griffin_lim=griffin_lim), causal_network(prior)
    mel = torch.randn(20, 60, generator=torch.Generator().manual_seed(0)) - 3
    pieces = torch.cat(list(synthesize_stream(network, schedule, mel.split(piece, dim=1))))
    whole = SAMPLERS["sde-dpm-solver"](network, mel[None], schedule, noises=whole_noises(0, 3, 60, 40))
    torch.testing.assert_close(pieces, whole[0], atol=1e-3, rtol=0)
    of_prior, of_estimate = (1 if prior else 0), (0 if griffin_lim is None else 4)
    start = of_estimate + (of_prior if griffin_lim is not None else 0)
    assert SynthesisStream(network, schedule).latency_frames == start + 3 * of_prior + of_prior


def test_it_learns_and_has_the_weights_of_the_other():
    """Fails if the gradient does not reach every weight, or weights cannot be taken over."""
    network, other = causal_network(), new_network(config_of(tiny_config_values()))
    network.load_state_dict(other.state_dict())
    network.train()(torch.randn(2, 400), torch.randn(2, 20, 10), torch.rand(2)).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_its_graph_agrees_with_pytorch(tmp_path):
    network, config = causal_network(), causal_config()
    export(network, config, tmp_path / "a.onnx")
    arguments = example(3, 11, 40, 20)
    with torch.inference_mode():
        torch.testing.assert_close(OnnxNetwork(tmp_path / "a.onnx")(*arguments), network(*arguments), atol=1e-4, rtol=0)
