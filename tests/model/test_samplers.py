"""The samplers beside ancestral sampling, against networks whose answer is known."""

import itertools

import numpy as np
import pytest
import torch

from common.errors import InputError
from model.noise_schedule import NoiseSchedule, fibonacci, from_log_snr, linear
from model.pipeline import Pipeline, standard_normal
from model.samplers import SAMPLERS, find_sampler, sampler_name
from tests.conftest import ROOT
from tests.oracles import GaussianDenoiser, Oracle, waveforms

SCHEDULES = [linear(1, 0.5, 0.5), linear(2, 1e-4, 0.5), fibonacci(25, 1e-6), linear(50, 1e-4, 0.05)]
SCHEDULE_FOLDER = ROOT / "schedules"
NAMES = [*SAMPLERS, "ddim:0.5", "dpm-solver:0.5"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_the_true_noise_leads_back_to_the_waveform(name, schedule):
    y_0, mel = waveforms()
    states, oracle = [], Oracle(y_0)
    result = Pipeline(oracle, schedule, name)(mel, torch.Generator().manual_seed(0), callback=lambda n, y: states.append((n, y)))
    torch.testing.assert_close(result, y_0, rtol=0, atol=1e-5)
    assert [n for n, _ in states] == list(range(len(schedule), -1, -1))
    assert torch.equal(states[-1][1], result)
    assert result.dtype == torch.float32 and oracle.n_calls == len(schedule)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_decides_everything(name):
    _, mel = waveforms()
    pipeline = Pipeline(GaussianDenoiser(0.3), SCHEDULES[2], name)
    first = pipeline(mel, torch.Generator().manual_seed(1))
    torch.manual_seed(5)  # the global one
    again, other = (pipeline(mel, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_ancestral_sampling_is_ddim_with_eta_1(schedule):
    """Against the posterior q(y_{n-1} | y_n, y_0) as Ho et al. (2020) give it, equation 7."""
    y_n, y_0, noise = torch.randn(3, 2, 50, dtype=torch.float64)
    for name, n in itertools.product(("ancestral", "ddim:1"), range(len(schedule), 0, -1)):
        found = find_sampler(name)(schedule, n, y_n, y_0, None, lambda: noise)
        abar_n, abar_next, beta = schedule.abar(n), schedule.abar(n - 1), schedule.beta(n)
        mean = abar_next**0.5 * beta / (1 - abar_n) * y_0 + (1 - beta) ** 0.5 * (1 - abar_next) / (1 - abar_n) * y_n
        variance = (1 - abar_next) / (1 - abar_n) * beta
        torch.testing.assert_close(found, mean + variance**0.5 * noise, rtol=1e-9, atol=1e-9)


def test_the_papers_sampler_is_what_a_schedule_without_one_means():
    assert sampler_name(None) == sampler_name(NoiseSchedule([0.5])) == "ancestral"
    assert sampler_name(NoiseSchedule([0.5], sampler="ddim")) == "ddim"
    assert sampler_name(NoiseSchedule([0.5], sampler="ddim"), "dpm-solver") == "dpm-solver"


def test_one_or_two_steps_of_dpm_solver_are_ddim():
    # Nothing to extrapolate from at first, nothing to extrapolate to at last.
    _, mel = waveforms()
    for schedule in SCHEDULES[:2]:
        results = [
            Pipeline(GaussianDenoiser(0.3), schedule, name)(mel, torch.Generator().manual_seed(1)) for name in ("ddim", "dpm-solver")
        ]
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpm-solver", 2)])
def test_order_of_convergence(name, order):
    _, mel = waveforms()
    network = GaussianDenoiser(0.05)  # so narrow that no prediction of y_0 is clamped
    start = next(standard_normal((2, 100), torch.Generator().manual_seed(1))).double()
    errors = []
    for n_steps in (40, 80, 160):
        schedule = from_log_snr(np.linspace(16, -6, n_steps))
        result = Pipeline(network, schedule, name)(mel, noises=itertools.repeat(start))
        exact = network.exact(start, schedule.noise_levels[-1])
        errors.append((result - exact).abs().max().item())
    ratios = np.array(errors[:-1]) / errors[1:]
    assert 0.75 * 2**order < ratios.min() <= ratios.max() < 1.5 * 2**order


def test_the_noise_of_the_sde_gives_the_right_variance():
    network = GaussianDenoiser(0.3)
    schedule = from_log_snr(np.linspace(14, -8, 600))
    mel = torch.zeros(1, 3, 4000)
    for name in ("ancestral", "ddim:0.5", "sde-dpm-solver"):
        result = Pipeline(network, schedule, name)(mel, torch.Generator().manual_seed(0))
        assert result.std().item() == pytest.approx(0.3, rel=0.04), name


@pytest.mark.parametrize("name", NAMES)
def test_results_stay_within_a_waveforms_range(name):
    _, mel = waveforms()

    class Nonsense(GaussianDenoiser):
        def __call__(self, y_n, mel, noise_level):
            return 5 * torch.randn(y_n.shape, generator=torch.Generator().manual_seed(3))

    assert Pipeline(Nonsense(1.0), SCHEDULES[2], name)(mel).abs().max() <= 1


@pytest.mark.parametrize(
    "name, said",
    [
        ("unknown", "'unknown': expected one of ancestral"),
        ("ddim:2", "expected an eta from 0 to 1, got '2'"),
        ("ddim:x", "got 'x'"),
        ("unknown:1", "expected one of"),
        ("sde-dpm-solver:1", "or ddim:ETA"),
    ],
)
def test_unknown_samplers_are_refused(name, said):
    with pytest.raises(InputError, match=said):
        find_sampler(name)


def test_log_snr_and_back():
    for schedule in (NoiseSchedule.load(SCHEDULE_FOLDER / "wg-6.json"), linear(1000, 1e-6, 0.01)):
        np.testing.assert_allclose(from_log_snr(schedule.log_snr).betas, schedule.betas, rtol=1e-8)
    with pytest.raises(InputError, match="must fall"):
        from_log_snr([1.0, 2.0])
