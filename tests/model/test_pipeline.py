"""A synthesis by the paper's sampler follows the golden trajectory, and an oracle leads it back to the waveform."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.noise_schedule import NoiseSchedule, linear
from model.pipeline import Part, Pipeline, StandardNormalPrior
from tests.oracles import HOP_LENGTH, Oracle


def test_follows_the_exact_trajectory(ivanvovk):
    tensors, network = ivanvovk
    states = {}
    pipeline = Pipeline(network, NoiseSchedule(tensors["betas"].numpy()))
    result = pipeline(tensors["mels"], noises=tensors["sampling_noises"], callback=states.__setitem__)
    trajectory = torch.stack([states[n] for n in sorted(states, reverse=True)])
    torch.testing.assert_close(trajectory, tensors["sampling_states_exact"], atol=1e-4, rtol=0)
    assert torch.equal(result, states[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-6, 0.9), min_size=1, max_size=12), st.integers(0, 1000))
def test_an_oracle_leads_back_to_the_waveform(betas, seed):
    generator = torch.Generator().manual_seed(seed)
    y_0 = torch.rand(2, 5 * HOP_LENGTH, generator=generator) * 2 - 1
    result = Pipeline(Oracle(y_0), NoiseSchedule(betas))(torch.zeros(2, 3, 5), generator)
    torch.testing.assert_close(result, y_0, atol=1e-4, rtol=0)


def test_the_network_is_told_the_noise_level_of_each_step(tiny_network):
    schedule, told = linear(6, 1e-4, 0.5), []

    class Listener:
        hop_length = HOP_LENGTH

        def __call__(self, y_n, mel, noise_level):
            told.append(noise_level)
            return torch.zeros_like(y_n)

    Pipeline(Listener(), schedule)(torch.zeros(3, 4, 2))
    assert [level.shape for level in told] == [(3,)] * 6
    torch.testing.assert_close(torch.stack(told)[:, 0], torch.tensor(schedule.noise_levels[::-1].copy()))


def test_the_generator_decides_the_result(tiny_network):
    mel, schedule = torch.randn(2, 20, 5), linear(3, 1e-3, 0.5)
    same, again, other = (Pipeline(tiny_network, schedule)(mel, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert same.shape == (2, 200)
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_the_global_seed_does_not_matter_with_a_generator(tiny_network):
    mel, schedule, results = torch.randn(1, 20, 5), linear(3, 1e-3, 0.5), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(Pipeline(tiny_network, schedule)(mel, torch.Generator().manual_seed(0)))
    assert torch.equal(*results)


def test_the_callback_sees_every_state(tiny_network):
    seen = []
    Pipeline(tiny_network, linear(4, 1e-3, 0.5))(torch.zeros(1, 20, 2), callback=lambda n, y: seen.append((n, y.shape)))
    assert seen == [(n, (1, 80)) for n in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("batch", [1, 3])
def test_results_stay_within_full_scale(batch):
    class Wrong:
        hop_length = HOP_LENGTH

        def __call__(self, y_n, mel, noise_level):
            return -50 * y_n

    result = Pipeline(Wrong(), linear(3, 1e-3, 0.5))(torch.zeros(batch, 4, 2))
    assert result.abs().max() <= 1 and result.isfinite().all()


def test_the_parts_come_in_their_order():
    """Fails if a part is left out, comes at another place, or if the start is not on the scale of its noise level."""
    seen, y_0 = [], torch.full((1, 2 * HOP_LENGTH), 0.5)

    def part(name, value):
        return Part(lambda y, mel: seen.append((name, y.mean().item())) or torch.full_like(y, value), 0)

    class Halving(StandardNormalPrior):
        def whiten(self, y, mel):
            return y / 2

        def unwhiten(self, z, mel):
            return 2 * z

        def limit(self, mel):
            return 0.25

    schedule = NoiseSchedule([0.19])
    pipeline = Pipeline(Oracle(y_0), schedule, None, Halving(), part("start", 0.8), part("correction", 0.1))
    mel, noises, states = torch.zeros(1, 3, 2), [torch.full_like(y_0, 3.0)], []
    before, after = pipeline.results(mel, noises, lambda n, y: states.append((n, round(y.mean().item(), 6))))
    assert states == [(1, 0.72), (0, 0.5)]  # 2 * 0.9 * (0.8 / 2), and twice the limit
    assert seen == [("start", 3.0), ("correction", 0.5)]
    assert before.mean() == 0.5 and torch.equal(after, torch.full_like(y_0, 0.1)) and torch.equal(pipeline(mel, noises=noises), after)
