"""The energy-based prior: what it is, and that whatever trains, samples, streams, saves or exports a network heeds it."""

import math

import pytest
import torch

from common.errors import InputError
from extensions.registry import load_network, make_pipeline, make_prior, read_checkpoint
from extensions.streaming import SynthesisStream, push_all
from model.checkpoint import save_weights
from model.diffusion import add_noise
from model.mel import compress
from model.noise_schedule import NoiseSchedule
from model.pipeline import Pipeline
from model.samplers import SAMPLERS
from tests.conftest import changed_config, seeded_network
from tests.oracles import whole_noises
from tests.training_fixtures import new_trainer, write_run

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])


def with_prior(loudest=2.0, floor=0.1, **mel_changes):
    mel = {f"mel__{key}": value for key, value in mel_changes.items()}
    return changed_config(prior={"loudest": loudest, "floor": floor}, **mel)


def mel_of_energies(config, energies):
    """Mels `[n_mels, frames]` whose bands are equal, and whose energies are these."""
    magnitudes = torch.tensor(energies, dtype=torch.float64) / math.sqrt(config.mel.n_mels)
    return compress(config.mel.power * magnitudes.log(), config.mel).float().expand(config.mel.n_mels, -1)


@pytest.mark.parametrize("scale", [{}, {"power": 2.0}, {"log": "ln", "mean": -5.0, "std": 3.0}, {"log": "db", "power": 2.0}])
def test_is_the_energy_of_a_frame_between_floor_and_one(scale):
    config = with_prior(**scale, clamp_min=1e-12)
    std = make_prior(config).std(mel_of_energies(config, [1e-3, 0.5, 1.0, 2.0, 7.0]))
    hop = config.mel.hop_length
    torch.testing.assert_close(std[::hop], torch.tensor([0.1, 0.25, 0.5, 1.0, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(std[hop + hop // 2], torch.tensor(math.sqrt(0.25 * 0.5)), atol=1e-4, rtol=0)  # decibels between frames
    assert (std[-hop:] == std[-1]).all()


def test_noise_of_unit_variance_is_wavegrad(tiny_config, tiny_network):
    mel, noises = torch.randn(2, 20, 6), [torch.randn(2, 240) for _ in range(3)]
    assert torch.equal(make_prior(with_prior(floor=1.0)).std(mel), torch.ones(2, 240))
    for name in SAMPLERS:
        pipelines = (make_pipeline(tiny_network, config, SCHEDULE, name) for config in (with_prior(floor=1.0), tiny_config))
        assert torch.equal(*(pipeline(mel, noises=noises) for pipeline in pipelines)), name


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_waveform_is_that_of_noise_of_its_standard_deviation(name):
    """Sampling in whitened waveforms is PriorGrad's, where y_n has noise of std, and the network's prediction is std epsilon."""
    config = with_prior()
    network, mel = seeded_network(config).double(), mel_of_energies(config, [0.3, 1.0, 4.0])[None].double()
    std, noises = make_prior(config).std(mel), [torch.randn(1, 120, dtype=torch.float64) for _ in range(3)]

    class Scaled:
        hop_length = network.hop_length

        def __call__(self, y_n, mel, noise_level):
            return std * network(y_n / std, mel, noise_level)

    wanted = Pipeline(Scaled(), SCHEDULE, name)(mel, noises=[std * noise for noise in noises])
    torch.testing.assert_close(make_pipeline(network, config, SCHEDULE, name)(mel, noises=noises), wanted, rtol=0, atol=1e-9)


def test_training_is_of_whitened_waveforms(tmp_path):
    trainer, seen = new_trainer(write_run(tmp_path, prior__loudest=1e3, prior__floor=1e-6)), []
    batch = next(iter(trainer.batches()))
    trainer.objective.diffusion(lambda y_n, mel, noise_level: seen.append((y_n, mel)) or torch.zeros_like(y_n), trainer.prepare(batch))
    left, right = trainer.mel_transform.context
    segment, noise, level = batch[:3]
    [(y_n, mel)] = seen
    std = make_prior(trainer.config).std(mel)
    assert std.max() < 0.5
    y_0 = segment[:, left : segment.shape[1] - right] / std
    torch.testing.assert_close(y_n, add_noise(y_0, noise, level))


@pytest.mark.parametrize("prior", [{"loudest": 2.0, "floor": 0.1}, {"kind": "spectral", "relative_floor": 0.01, "floor": 0.001}], ids=str)
def test_pieces_give_the_whole(prior):
    """Of both kinds of prior."""
    config = changed_config(prior=prior)
    network, mel = seeded_network(config), torch.randn(20, 50) - 1
    noises = whole_noises(0, len(SCHEDULE), 50, network.hop_length)
    pipeline = make_pipeline(network, config, SCHEDULE)
    at_once, pieces = pipeline(mel[None], noises=noises)[0], push_all(SynthesisStream(pipeline), mel.split(7, dim=1))
    torch.testing.assert_close(torch.cat(list(pieces)), at_once, atol=1e-4, rtol=0)
    assert not torch.allclose(torch.cat(list(push_all(SynthesisStream(Pipeline(network, SCHEDULE)), [mel]))), at_once, atol=1e-2)


def test_goes_with_the_checkpoint(tmp_path, tiny_config):
    config, path = with_prior(), tmp_path / "a.safetensors"
    save_weights(seeded_network(config), config, path)
    assert load_network(path)[1].prior == config.prior
    with pytest.raises(InputError, match=r"a\.safetensors: prior is .*loudest=2\.0.*expected by the configuration: None"):
        read_checkpoint(path, tiny_config)


@pytest.mark.parametrize("prior, message", [({}, "missing key 'prior.loudest'"), ({"loudest": 1.0, "floor": 0.0}, "prior.floor")])
def test_bad_configuration(prior, message):
    with pytest.raises(InputError, match=message):
        changed_config(prior=prior)
