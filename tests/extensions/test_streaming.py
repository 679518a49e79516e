"""A waveform made in pieces is the waveform made whole, with a fixed latency and in memory that does not grow."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from extensions.registry import make_network, make_pipeline
from extensions.streaming import FrameNoise, SynthesisStream, push_all, push_together
from model.config import load_config
from model.noise_schedule import NoiseSchedule, interpolate
from model.pipeline import Pipeline
from model.samplers import SAMPLERS
from tests.conftest import ROOT, changed_config, seeded_network, tiny_config_values
from tests.oracles import whole_noises

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])


@pytest.fixture(scope="module")
def network():
    return seeded_network(changed_config())


def whole(network, mel, seed=0):
    noises = whole_noises(seed, len(SCHEDULE), mel.shape[1], network.hop_length)
    return Pipeline(network, SCHEDULE)(mel[None], noises=noises)[0]


@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 90), piece=st.integers(1, 50), seed=st.integers(0, 100))
def test_pieces_give_the_whole(network, frames, piece, seed):
    mel = torch.randn(20, frames, generator=torch.Generator().manual_seed(seed))
    pieces = list(push_all(SynthesisStream(Pipeline(network, SCHEDULE), seed), mel.split(piece, dim=1)))
    torch.testing.assert_close(torch.cat(pieces), whole(network, mel, seed), atol=1e-4, rtol=0)


def test_one_frame_at_a_time_comes_with_a_fixed_latency(network):
    mel = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    stream, given, result = SynthesisStream(Pipeline(network, SCHEDULE)), [], []
    for frame in range(60):
        result.append(stream.push(mel[:, frame : frame + 1], last=frame == 59))
        given.append(sum(len(piece) for piece in result) // 40)
    assert stream.latency_frames == 3 * network.context_frames
    assert given[:-1] == [max(frame + 1 - stream.latency_frames, 0) for frame in range(59)]
    torch.testing.assert_close(torch.cat(result), whole(network, mel), atol=1e-4, rtol=0)
    with pytest.raises(RuntimeError, match="ended"):
        stream.push(mel)


def test_streams_pushed_together_give_what_each_gives_alone(network):
    mels = [torch.randn(20, frames, generator=torch.Generator().manual_seed(frames)) for frames in (33, 7, 60, 33)]
    streams, results = [SynthesisStream(Pipeline(network, SCHEDULE)) for _ in mels], [[] for _ in mels]
    open_streams = list(range(4))
    for start in range(0, 60, 8):
        chunks = [mels[i][:, start : start + 8] for i in open_streams]
        lasts = [start + 8 >= mels[i].shape[1] for i in open_streams]
        for i, waveform in zip(open_streams, push_together([streams[i] for i in open_streams], chunks, lasts)):
            results[i].append(waveform)
        open_streams = [i for i, last in zip(open_streams, lasts) if not last]
    for mel, result in zip(mels, results):
        torch.testing.assert_close(torch.cat(result), whole(network, mel), atol=1e-4, rtol=0)


def test_what_a_stream_keeps_does_not_grow(network):
    stream, sizes = SynthesisStream(Pipeline(network, SCHEDULE)), []
    for _ in range(30):
        stream.push(torch.randn(20, 10))
        sizes.append(sum(stage.y.numel() + stage.mel.numel() for stage in stream.steps))
    assert len(set(sizes[10:])) == 1


@pytest.mark.parametrize("changes", [{}, {"interpolation": "nearest"}, {"upsampling_dilations": [[1, 2, 4, 8]] * 3}])
@torch.inference_mode()
def test_the_receptive_field_is_as_said(changes):
    """Beyond `context_frames` nothing has an influence, and not much less would do."""
    network = seeded_network(changed_config(network=tiny_config_values()["network"] | changes)).double()
    context, middle = network.context_frames, 30
    y, mel, level = torch.randn(1, 2400).double(), torch.randn(1, 20, 60).double(), torch.full((1,), 0.5).double()
    frame = slice(middle * 40, (middle + 1) * 40)
    exact = network(y, mel, level)[:, frame]

    def changed_beyond(distance):
        first, end = middle - distance, middle + 1 + distance
        other_y, other_mel = torch.randn_like(y), torch.randn_like(mel)
        other_y[:, first * 40 : end * 40], other_mel[:, :, first:end] = y[:, first * 40 : end * 40], mel[:, :, first:end]
        return (network(other_y, other_mel, level)[:, frame] - exact).abs().max().item()

    assert changed_beyond(context) == 0
    assert changed_beyond(context - 2) > 0


@pytest.mark.parametrize("n_steps", [3, 12])
@pytest.mark.parametrize("name", SAMPLERS)
def test_pieces_give_the_whole_in_float64_whatever_the_sampler(network, name, n_steps):
    """Fails if a piece differs by more than rounding, which float32 hides: twelve steps enlarge it to 4e-4 there."""
    schedule, mel = interpolate(SCHEDULE, n_steps), torch.randn(20, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    double = copy.deepcopy(network).double()
    noises = [noise.double() for noise in whole_noises(0, n_steps, 40, double.hop_length)]
    pipeline, pieces = Pipeline(double, schedule, name), mel.split(7, dim=1)
    wanted, stream = pipeline(mel[None], noises=noises)[0], SynthesisStream(pipeline)
    found = [push_together([stream], [piece], [i == len(pieces) - 1])[0] for i, piece in enumerate(pieces)]
    torch.testing.assert_close(torch.cat(found), wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name, n_noisy", [("ddim", 0), ("dpm-solver", 0), ("ancestral", 2), ("sde-dpm-solver", 2)])
def test_no_noise_is_drawn_for_steps_that_add_none(network, monkeypatch, name, n_noisy):
    drawn = []
    monkeypatch.setattr(FrameNoise, "draw", lambda noise, n_frames: drawn.append(n_frames) or torch.zeros(n_frames * 40))
    SynthesisStream(Pipeline(network, SCHEDULE, name)).push(torch.randn(20, 9), last=True)
    assert drawn == [9] * (1 + n_noisy)  # the start, and the steps


@pytest.mark.parametrize(
    "name, schedule, gla_grad, frames, milliseconds",
    [
        ("universal-22k", "universal-22k-1", 0, 17, 197),
        ("universal-22k", "universal-22k-1", 8, 49, 569),
        ("universal-22k", "universal-22k-2", 0, 26, 302),
        ("small-16k", "small-16k-6", 0, 91, 1138),
    ],
)
def test_latencies_are_those_of_the_manual(name, schedule, gla_grad, frames, milliseconds):
    """Those in docs/usage.md."""
    config = load_config(ROOT / "configs" / f"{name}.json")
    schedule = NoiseSchedule.load(ROOT / "schedules" / f"{schedule}.json")
    stream = SynthesisStream(make_pipeline(make_network(config).eval(), config, schedule, gla_grad=gla_grad))
    assert stream.latency_frames == frames
    assert round(1000 * frames * config.mel.hop_length / config.mel.sample_rate) == milliseconds


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_stream_that_was_interrupted_refuses_to_go_on(network, monkeypatch, error):
    """Fails if the same piece again gives samples twice: some steps had taken it."""
    stream, mel = SynthesisStream(Pipeline(network, SCHEDULE)), torch.randn(20, 60)
    stream.push(mel)

    def interrupted(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(type(network), "forward", interrupted)
        stream.push(mel)
    for last in (False, True):
        with pytest.raises(RuntimeError, match="an earlier push was interrupted"):
            stream.push(mel, last)
    with pytest.raises(InputError):
        SynthesisStream(Pipeline(network, SCHEDULE)).push(mel[:5])
