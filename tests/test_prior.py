"""The energy-based prior: what it is, and that whatever trains, samples, streams, saves or exports a network heeds it."""

import json
import math

import pytest
import torch

import onnx_inference
from common.errors import InputError
from model.checkpoint import load_network, read_checkpoint, save_weights
from model.diffusion import add_noise
from model.export import TOLERANCE, OnnxNetwork, export, largest_difference
from model.mel.transform import compress
from model.network import new_network
from model.noise_schedule import NoiseSchedule
from model.prior import StandardNormalPrior, make_prior
from model.sampler import SAMPLERS
from model.streaming import synthesize_stream
from tests.conftest import config_of, tiny_config_values
from tests.oracles import whole_noises
from training.trainer import Trainer

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])


def with_prior(loudest=2.0, floor=0.1, **mel_changes):
    values = tiny_config_values()
    values["mel"] |= mel_changes
    return config_of(values | {"prior": {"loudest": loudest, "floor": floor}})


def seeded_network(config):
    torch.manual_seed(0)
    return new_network(config).eval()


def mel_of_energies(config, energies):
    """Mels `[n_mels, frames]` whose bands are equal, and whose energies are these."""
    magnitudes = torch.tensor(energies, dtype=torch.float64) / math.sqrt(config.mel.n_mels)
    return compress(config.mel.power * magnitudes.log(), config.mel).float().expand(config.mel.n_mels, -1)


@pytest.mark.parametrize("scale", [{}, {"power": 2.0}, {"log": "ln", "mean": -5.0, "std": 3.0}, {"log": "db", "power": 2.0}])
def test_is_the_energy_of_a_frame_between_floor_and_one(scale):
    config = with_prior(**scale, clamp_min=1e-12)
    std = make_prior(config)(mel_of_energies(config, [1e-3, 0.5, 1.0, 2.0, 7.0]))
    hop = config.mel.hop_length
    torch.testing.assert_close(std[::hop], torch.tensor([0.1, 0.25, 0.5, 1.0, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(std[hop + hop // 2], torch.tensor(math.sqrt(0.25 * 0.5)), atol=1e-4, rtol=0)  # decibels between frames
    assert (std[-hop:] == std[-1]).all()


def test_there_is_none_unless_asked_for(tiny_config, tiny_network):
    assert isinstance(make_prior(tiny_config), StandardNormalPrior)
    assert tiny_network.prior(torch.zeros(1, 20, 3)) == 1.0


def test_noise_of_unit_variance_is_wavegrad(tiny_config, tiny_network):
    config = with_prior(floor=1.0)
    network = seeded_network(config)
    network.load_state_dict(tiny_network.state_dict())
    mel = torch.randn(2, 20, 6)
    assert torch.equal(network.prior(mel), torch.ones(2, 240))
    for name, sample in SAMPLERS.items():
        noises = [torch.randn(2, 240) for _ in range(3)]
        assert torch.equal(*(sample(n, mel, SCHEDULE, noises=noises) for n in (network, tiny_network))), name


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_waveform_is_that_of_noise_of_its_standard_deviation(name):
    """Sampling in whitened waveforms is PriorGrad's, where y_n has noise of std, and the network's prediction is std epsilon."""
    config = with_prior()
    network, mel = seeded_network(config).double(), mel_of_energies(config, [0.3, 1.0, 4.0])[None].double()
    std, noises = network.prior(mel), [torch.randn(1, 120, dtype=torch.float64) for _ in range(3)]

    class Scaled:
        hop_length, prior = network.hop_length, StandardNormalPrior()

        def __call__(self, y_n, mel, noise_level):
            return std * network(y_n / std, mel, noise_level)

    wanted = SAMPLERS[name](Scaled(), mel, SCHEDULE, noises=[std * noise for noise in noises])
    torch.testing.assert_close(SAMPLERS[name](network, mel, SCHEDULE, noises=noises), wanted, rtol=0, atol=1e-9)


def test_training_is_of_whitened_waveforms(tmp_path, write_recording):
    write_recording(tmp_path / "a.wav")
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("a.wav\n")
    trainer, seen = Trainer(with_prior(loudest=1e3, floor=1e-6), tmp_path), []
    batch = next(iter(trainer.batches()))
    trainer.losses(lambda y_n, mel, noise_level: seen.append((y_n, mel)) or torch.zeros_like(y_n), batch)
    left, right = trainer.mel_transform.context
    segment, noise, level = batch[:3]
    [(y_n, mel)] = seen
    std = make_prior(trainer.config)(mel)
    assert std.max() < 0.5
    y_0 = segment[:, left : segment.shape[1] - right] / std
    torch.testing.assert_close(y_n, add_noise(y_0, noise, level))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_starts_from_it(name):
    config = with_prior()
    network, mel = seeded_network(config), mel_of_energies(config, [0.3, 1.0, 4.0])[None]
    states, noises = [], [torch.randn(1, 120) for _ in range(3)]
    SAMPLERS[name](network, mel, SCHEDULE, noises=noises, callback=lambda n, y: states.append(y))
    torch.testing.assert_close(states[0], make_prior(config)(mel) * noises[0])


def test_pieces_give_the_whole():
    config = with_prior()
    network, mel = seeded_network(config), torch.randn(20, 50) - 1
    noises = whole_noises(0, len(SCHEDULE), 50, network.hop_length)
    at_once = SAMPLERS["sde-dpm-solver"](network, mel[None], SCHEDULE, noises=noises)[0]
    pieces = synthesize_stream(network, SCHEDULE, mel.split(7, dim=1))
    torch.testing.assert_close(torch.cat(list(pieces)), at_once, atol=1e-4, rtol=0)
    without = seeded_network(config_of(tiny_config_values()))
    assert not torch.allclose(torch.cat(list(synthesize_stream(without, SCHEDULE, [mel]))), at_once, atol=1e-2)


def test_training_depends_on_it(tmp_path, write_recording):
    for name in ("train", "validation"):
        write_recording(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(f"{name}.wav\n")
    trainers = [Trainer(config, tmp_path) for config in (with_prior(1e3), with_prior(floor=1.0), config_of(tiny_config_values()))]
    losses = [trainer.train_step(next(iter(trainer.batches()))).loss for trainer in trainers]
    assert losses[0] != losses[1] == losses[2]


def test_goes_with_the_checkpoint(tmp_path, tiny_config):
    config, path = with_prior(), tmp_path / "a.safetensors"
    save_weights(seeded_network(config), config, path)
    network, found = load_network(path)
    assert found.prior == config.prior and network.prior.config == config.prior
    with pytest.raises(InputError, match=r"a\.safetensors: prior is .*loudest=2\.0.*wanted by the configuration: None"):
        read_checkpoint(path, tiny_config)


@pytest.mark.parametrize("scale", [{}, {"log": "ln", "mean": -5.0, "std": 3.0}, {"log": "db", "power": 2.0}])
def test_is_the_same_in_numpy(scale):
    config = with_prior(**scale)
    mel, hop_length = mel_of_energies(config, [0.3, 1.0, 0.05, 4.0, 0.7]), config.mel.hop_length
    std = onnx_inference.standard_deviation(mel.numpy(), json.loads(config.model_dump_json()), hop_length)
    torch.testing.assert_close(torch.from_numpy(std).float(), make_prior(config)(mel))


def test_goes_with_an_export(tmp_path):
    """onnxruntime, and NumPy alone, come to what PyTorch comes to from the same noise."""
    config = with_prior(log="ln", mean=-5.0, std=3.0)
    network, path = seeded_network(config), tmp_path / "a.onnx"
    export(network, config, path)
    onnx_network = OnnxNetwork(path)
    assert largest_difference(network, onnx_network, config) < TOLERANCE

    mel = mel_of_energies(config, [0.3, 1.0, 0.05, 4.0, 0.7])
    noises = [torch.randn(1, 5 * network.hop_length) for _ in range(3)]
    expected = SAMPLERS["ancestral"](network, mel[None], SCHEDULE, noises=noises)
    torch.testing.assert_close(SAMPLERS["ancestral"](onnx_network, mel[None], SCHEDULE, noises=noises), expected, atol=1e-4, rtol=0)

    std, drawn = make_prior(config)(mel).numpy(), iter(noises)
    waveform = onnx_inference.sample(
        onnx_inference.Network(onnx_network.session),
        mel.numpy(),
        SCHEDULE.betas,
        network.hop_length,
        lambda shape: next(drawn).numpy(),
        std=std,
    )
    torch.testing.assert_close(torch.from_numpy(waveform).float(), expected[0], atol=1e-4, rtol=0)


class GraphWithPrior:
    """An ONNX session as earlier versions exported it: waveform and prediction have the standard deviation of the prior."""

    def __init__(self, session, prior):
        self.session, self.prior = session, prior

    def run(self, outputs, inputs):
        std = self.prior(torch.from_numpy(inputs["mel"])).numpy()
        return [std * self.session.run(outputs, inputs | {"y_n": inputs["y_n"] / std})[0]]


def test_files_of_earlier_versions_give_the_same(tmp_path):
    """Fails if a graph that contains the prior is called with whitened waveforms."""
    config = with_prior(log="ln", mean=-5.0, std=3.0)
    network, path = seeded_network(config), tmp_path / "a.onnx"
    export(network, config, path)
    new, old = OnnxNetwork(path), OnnxNetwork(path)
    old.session, old._std_of_graph = GraphWithPrior(new.session, new.prior), new.prior
    mel, y_n, level = mel_of_energies(config, [0.3, 1.0, 4.0])[None], torch.randn(1, 120), torch.tensor([0.5])
    torch.testing.assert_close(old(y_n, mel, level), new(y_n, mel, level), atol=1e-4, rtol=0)
    in_numpy = [
        onnx_inference.Network(*arguments)(y_n.numpy(), mel.numpy(), level.double().numpy())
        for arguments in [(new.session,), (old.session, new.prior(mel).numpy())]
    ]
    torch.testing.assert_close(*map(torch.from_numpy, in_numpy), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prior, message", [({}, "missing key 'prior.loudest'"), ({"loudest": 1.0, "floor": 0.0}, "prior.floor")])
def test_bad_configuration(prior, message):
    with pytest.raises(InputError, match=message):
        config_of(tiny_config_values() | {"prior": prior})
