"""The files of the two public WaveGrads of 2020 load, whole or not at all, and compute what they computed."""

import json

import pytest
import torch

from common.errors import InputError, run_command
from extensions.interop.presets import preset
from extensions.interop.published import from_ivanvovk, load_published
from extensions.registry import load_network, read_checkpoint
from model.checkpoint import load_strictly
from model.config import parse_config
from model.network import WaveGrad
from runs.convert import main
from tests.conftest import DATA, golden
from tests.processes import PYTHON, run_to_end

GOLDEN_TOLERANCE = 1e-5
NAMES = ["ivanvovk", "lmnt"]


def write_published(path, weights, **more):
    torch.save({"model": weights, **more}, path)
    return path


@pytest.fixture(params=NAMES)
def published(request, tmp_path):
    """A published file at the small size, and its golden tensors."""
    tensors = golden(f"{request.param}_tiny.pt")
    return write_published(tmp_path / f"{request.param}.pt", tensors["state_dict"]), tensors


def assert_computes(network, tensors):
    with torch.inference_mode():
        predicted = network(tensors["y"], tensors["mels"], tensors["noise_level"].reshape(-1))
    torch.testing.assert_close(predicted, tensors["eps"], atol=GOLDEN_TOLERANCE, rtol=0)


def test_loads_directly_and_computes_the_golden_tensors(published):
    path, tensors = published
    network, config = load_network(path)
    assert_computes(network, tensors)
    assert config.mel == preset(path.stem)


def test_converted_once_it_is_a_file_of_ours(published, tmp_path, capsys):
    path, tensors = published
    assert main([str(path), str(tmp_path / "ours.safetensors")]) == 0
    assert "ours.safetensors" in capsys.readouterr().out
    network, config = load_network(tmp_path / "ours.safetensors")
    assert_computes(network, tensors)
    assert config == load_network(path)[1]
    assert parse_config(config.model_dump_json(), "") == config


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_the_full_size_has_its_place(name):
    shapes = json.loads((DATA / f"{name}_default_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        content = {"model": {key: torch.empty(shape) for key, shape in shapes.items()}}
        weights, config = load_published(content, name)
        network = WaveGrad(config.network, config.mel.n_mels)
        load_strictly(network, weights, name)
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(torch.Size(shape).numel() for shape in shapes.values())
    assert config.mel == preset(name)
    assert (config.network.interpolation, config.network.noise_level_scale) == (
        ("linear", 5000.0) if name == "ivanvovk" else ("nearest", 1.0)
    )


def test_what_comes_beside_the_weights_is_no_obstacle(published, tmp_path):
    """Schedule tables, the prefix of training on several devices, and the state of the trainer."""
    path, tensors = published
    weights = {f"module.{name}": tensor for name, tensor in tensors["state_dict"].items()}
    if path.stem == "ivanvovk":
        weights.update({f"module.{name}": torch.zeros(6) for name in ("betas", "alphas_cumprod_prev", "posterior_mean_coef1")})
    full = write_published(tmp_path / "full.pt", weights, step=7, optimizer={"state": {}, "param_groups": [{"lr": 1e-3}]})
    assert_computes(load_network(full)[0], tensors)
    bare = tmp_path / "bare.pt"
    torch.save(tensors["state_dict"], bare)
    assert_computes(load_network(bare)[0], tensors)


def test_lmnts_own_parameters_say_the_sample_rate(tmp_path):
    weights = golden("lmnt_tiny.pt")["state_dict"]
    path = write_published(tmp_path / "a.pt", weights, params={"sample_rate": 22050, "hop_samples": 300})
    _, config = load_network(path)
    assert (config.mel.sample_rate, config.mel.f_max) == (22050, 11025.0)


def test_differences_are_listed(published, tmp_path):
    path, tensors = published
    weights = dict(tensors["state_dict"])
    first, second, third = list(weights)[4], list(weights)[11], list(weights)[20]
    del weights[first], weights[second]
    weights[third] = torch.zeros(*weights[third].shape, 2)[..., 0].repeat_interleave(2, 0)
    weights["nn.extra" if path.stem == "ivanvovk" else "extra"] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        load_network(write_published(tmp_path / "broken.pt", weights))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'broken.pt'}: ") and "\n" not in message
    assert message.count("is missing") == 2 and "has shape" in message and "unknown weight" in message and "extra" in message


def test_an_incomplete_film_is_not_taken_for_a_whole_one(tmp_path):
    weights = dict(golden("ivanvovk_tiny.pt")["state_dict"])
    del weights["nn.films.2.shift_conv.conv1d.bias"]
    with pytest.raises(InputError, match="'films.2.scale_shift.bias' is missing.*unknown weight 'films.2.scale.bias'"):
        load_network(write_published(tmp_path / "film.pt", weights))


def test_a_network_whose_factors_cannot_be_known_wants_a_configuration(tmp_path):
    weights = {name: t for name, t in golden("ivanvovk_tiny.pt")["state_dict"].items() if ".ublocks.4." not in name}
    with pytest.raises(InputError, match="4 UBlocks, but 5 factors.*expected: a configuration"):
        load_network(write_published(tmp_path / "four.pt", weights))


def test_a_configuration_must_agree(published, default_config):
    path, _ = published
    with pytest.raises(InputError, match="network\\.[a-z_]+ is .*expected by the configuration"):
        load_network(path, default_config)
    own = read_checkpoint(path).config
    load_network(path, own)


def test_neither_of_both_is_not_recognised():
    for content in ({"model": {"encoder.weight": torch.zeros(1)}}, torch.zeros(3), {"model": 3}, []):
        assert load_published(content, "a.pt") is None


@pytest.mark.parametrize(
    "target, words",
    [
        ("out.pt", "released weights are a .safetensors file"),
        ("none/out.safetensors", "No such file"),
        ("tiny.safetensors", "tiny.safetensors: the result would overwrite"),
    ],
)
def test_convert_refuses_what_it_cannot_write(tiny_checkpoint, tmp_path, capsys, target, words):
    before = tiny_checkpoint.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main([str(tiny_checkpoint), str(tmp_path / target)]))
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and words in error and error.count("\n") == 1
    assert tiny_checkpoint.read_bytes() == before


def test_convert_records_the_statistics_of_recordings(tiny_checkpoint, tmp_path, write_recording):
    """As a command of its own, as a user starts it."""
    write_recording(tmp_path / "recordings" / "a.wav", seconds=0.5)
    target = tmp_path / "with statistics.safetensors"
    result = run_to_end(PYTHON, "-m", "runs.convert", tiny_checkpoint, target, "-r", tmp_path / "recordings")
    assert result.returncode == 0, result.stderr
    assert read_checkpoint(target).mel_statistics.n_frames == 100


def test_ivanvovks_networks_have_any_number_of_dilations():
    """Fails if a convolution of a DBlock's main branch has no place; its first part is the downsampling."""
    weights = from_ivanvovk({f"nn.dblocks.0.main_branch.{n}.convolution.conv1d.bias": torch.zeros(n) for n in (1, 2, 3, 4, 5)})
    assert {name: len(tensor) for name, tensor in weights.items()} == {f"dblocks.0.convs.{n - 1}.bias": n for n in (1, 2, 3, 4, 5)}


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_says_the_features_that_no_weight_tells(tmp_path, name):
    path = write_published(tmp_path / "a.pt", golden(f"{name}_tiny.pt")["state_dict"])
    values = json.loads(read_checkpoint(path).config.model_dump_json())
    values["mel"] |= {"sample_rate": 16000, "f_max": 8000.0, "f_min": 20.0}
    config = parse_config(json.dumps(values), "config.json")
    assert read_checkpoint(path, config).config.mel == config.mel
    values["mel"]["n_mels"] += 1
    with pytest.raises(InputError, match="mel.n_mels is "):
        read_checkpoint(path, parse_config(json.dumps(values), "config.json"))
    if name == "lmnt":  # its trainer tells the rate, which then counts
        told = write_published(tmp_path / "b.pt", golden("lmnt_tiny.pt")["state_dict"], params={"sample_rate": 22050})
        with pytest.raises(InputError, match="mel.sample_rate is 22050 .*16000"):
            read_checkpoint(told, config)
