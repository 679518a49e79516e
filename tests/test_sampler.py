"""Ancestral sampling follows the golden trajectory, and an oracle leads it back to the waveform."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.noise_schedule import NoiseSchedule, linear
from model.prior import StandardNormalPrior
from model.sampler import SAMPLERS
from tests.oracles import HOP_LENGTH, Oracle
from tests.test_network import ivanvovk  # noqa: F401  (a fixture)


def test_follows_the_exact_trajectory(ivanvovk):  # noqa: F811
    tensors, network = ivanvovk
    states = {}
    result = SAMPLERS["ancestral"](
        network,
        tensors["mels"],
        NoiseSchedule(tensors["betas"].numpy()),
        noises=tensors["sampling_noises"],
        callback=states.__setitem__,
    )
    trajectory = torch.stack([states[n] for n in sorted(states, reverse=True)])
    torch.testing.assert_close(trajectory, tensors["sampling_states_exact"], atol=1e-4, rtol=0)
    assert torch.equal(result, states[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-6, 0.9), min_size=1, max_size=12), st.integers(0, 1000))
def test_an_oracle_leads_back_to_the_waveform(betas, seed):
    generator = torch.Generator().manual_seed(seed)
    y_0 = torch.rand(2, 5 * HOP_LENGTH, generator=generator) * 2 - 1
    result = SAMPLERS["ancestral"](Oracle(y_0), torch.zeros(2, 3, 5), NoiseSchedule(betas), generator)
    torch.testing.assert_close(result, y_0, atol=1e-4, rtol=0)


def test_the_network_is_told_the_noise_level_of_each_step(tiny_network):
    schedule, told = linear(6, 1e-4, 0.5), []

    class Listener:
        hop_length, prior = HOP_LENGTH, StandardNormalPrior()

        def __call__(self, y_n, mel, noise_level):
            told.append(noise_level)
            return torch.zeros_like(y_n)

    SAMPLERS["ancestral"](Listener(), torch.zeros(3, 4, 2), schedule)
    assert [level.shape for level in told] == [(3,)] * 6
    torch.testing.assert_close(torch.stack(told)[:, 0], torch.tensor(schedule.noise_levels[::-1].copy()))


def test_the_generator_decides_the_result(tiny_network):
    mel, schedule = torch.randn(2, 20, 5), linear(3, 1e-3, 0.5)
    same, again, other = (SAMPLERS["ancestral"](tiny_network, mel, schedule, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert same.shape == (2, 200)
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_the_global_seed_does_not_matter_with_a_generator(tiny_network):
    mel, schedule, results = torch.randn(1, 20, 5), linear(3, 1e-3, 0.5), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(SAMPLERS["ancestral"](tiny_network, mel, schedule, torch.Generator().manual_seed(0)))
    assert torch.equal(*results)


def test_the_callback_sees_every_state(tiny_network):
    seen = []
    SAMPLERS["ancestral"](tiny_network, torch.zeros(1, 20, 2), linear(4, 1e-3, 0.5), callback=lambda n, y: seen.append((n, y.shape)))
    assert seen == [(n, (1, 80)) for n in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("batch", [1, 3])
def test_results_stay_within_full_scale(batch):
    class Wrong:
        hop_length, prior = HOP_LENGTH, StandardNormalPrior()

        def __call__(self, y_n, mel, noise_level):
            return -50 * y_n

    result = SAMPLERS["ancestral"](Wrong(), torch.zeros(batch, 4, 2), linear(3, 1e-3, 0.5))
    assert result.abs().max() <= 1 and result.isfinite().all()
