"""The network as ONNX: what PyTorch computes, at any size; and synthesis without PyTorch."""

import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import model.export
import onnx_inference
from model.config import parse_config
from model.export import CHECKED_SIZES, EXAMPLE_SIZE, TOLERANCE, OnnxNetwork, example, export, main
from model.mel_presets import preset
from model.network import WaveGrad
from model.noise_schedule import linear
from model.published import load_published
from model.sampler import DEFAULT_SAMPLER, SAMPLERS
from tests.conftest import ROOT, config_of, tiny_config_values


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its configuration and its ONNX file."""
    config = config_of(tiny_config_values())
    torch.manual_seed(0)
    network = WaveGrad(config.network, config.mel.n_mels).eval()
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export(network, config, path)
    return network, config, path


@pytest.mark.parametrize("batch, frames", [(1, 1), (1, 2), (1, 100), (2, 8), (5, 3), (3, 33)])
@torch.inference_mode()
def test_agrees_with_pytorch_at_sizes_it_was_not_exported_with(exported, batch, frames):
    network, config, path = exported
    assert (batch, frames) != EXAMPLE_SIZE and EXAMPLE_SIZE not in CHECKED_SIZES
    arguments = example(batch, frames, 40, 20, seed=1)
    found = OnnxNetwork(path)(*arguments)
    assert found.shape == (batch, frames * 40)
    torch.testing.assert_close(found, network(*arguments), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["ivanvovk", "lmnt"])
@torch.inference_mode()
def test_other_architectures_agree_too(golden, tmp_path, name):
    """Odd and even factors, linear and nearest interpolation, hop 300; and a hop of 256 with non-resampling blocks."""
    weights, config = load_published({"model": golden(f"{name}_tiny.pt")["state_dict"]}, name)
    network = WaveGrad(config.network, config.mel.n_mels).eval()
    network.load_state_dict(weights)
    export(network, config, tmp_path / "a.onnx")
    arguments = example(3, 4, 300, config.mel.n_mels, seed=2)
    torch.testing.assert_close(OnnxNetwork(tmp_path / "a.onnx")(*arguments), network(*arguments), atol=TOLERANCE, rtol=0)
    assert config.mel == preset(name)


def test_the_file_says_what_it_takes_to_use_it(exported):
    _, config, path = exported
    metadata = OnnxNetwork(path).session.get_modelmeta().custom_metadata_map
    assert (metadata["sample_rate"], metadata["hop_length"], metadata["n_mels"]) == ("8000", "40", "20")
    assert parse_config(metadata["config"], "") == config


@pytest.mark.parametrize("sampler", onnx_inference.SAMPLERS)
def test_samples_as_pytorch_does_from_the_same_noise(exported, sampler):
    network, config, path = exported
    schedule, mel = linear(4, 1e-4, 0.5), torch.randn(1, 20, 9)
    noises = [torch.randn(1, 360, dtype=torch.float64) for _ in range(4)]
    given = iter(noises)
    session, draw = OnnxNetwork(path).session, lambda shape: next(given).numpy()
    found = onnx_inference.sample(session, mel[0].numpy(), schedule.betas, 40, draw, *onnx_inference.SAMPLERS[sampler])
    wanted = SAMPLERS[sampler](network, mel, schedule, noises=[noise.float() for noise in noises])[0]
    torch.testing.assert_close(torch.from_numpy(found).float(), wanted, atol=1e-3, rtol=0)


def test_defaults_are_those_of_the_vocoder():
    assert onnx_inference.DEFAULT_SAMPLER == DEFAULT_SAMPLER


@pytest.fixture
def arguments(exported, tmp_path):
    linear(3, 1e-3, 0.6).save(tmp_path / "s.json")
    np.save(tmp_path / "m.npy", np.full((20, 6), -5.0, np.float32))
    return [exported[2], tmp_path / "s.json", tmp_path / "m.npy", tmp_path / "out.wav"]


def test_synthesises_with_onnxruntime_and_numpy_alone(arguments, tmp_path):
    """In an interpreter where importing anything else that is installed fails."""
    code = (
        "import sys\n"
        "for name in ('torch', 'torchaudio', 'scipy', 'soundfile', 'librosa', 'safetensors', 'pydantic', 'model'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = {['onnx_inference.py', *map(str, arguments)]!r}\n"
        "import onnx_inference; sys.exit(onnx_inference.main())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate, info.subtype) == (240, 8000, "PCM_16")


@pytest.mark.parametrize(
    "place, content, words",
    [
        (0, b"nonsense", "not a network written by model.export"),
        (1, b"{}", "not a noise schedule"),
        (1, b'{"betas": [2]}', "inside .0, 1."),
        (1, b'{"betas": [0.1], "sampler": "euler"}', "one of ancestral, "),
        (2, b"nonsense", "not a NumPy array"),
        (2, None, "shape .21, 6."),
        (1, "missing", "No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, tmp_path, monkeypatch, capsys, place, content, words):
    path = tmp_path / "bad"
    if content is None:
        path = tmp_path / "bad.npy"
        np.save(path, np.zeros((21, 6)))
    elif content != "missing":
        path.write_bytes(content)
    arguments[place] = path
    monkeypatch.setattr(sys, "argv", ["onnx_inference.py", *map(str, arguments)])
    assert onnx_inference.main() == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(words, error) and "bad" in error
    assert not (tmp_path / "out.wav").exists()


def test_the_command_checks_what_it_wrote(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    assert main([str(tiny_checkpoint), str(tmp_path / "a.onnx")]) == 0
    assert "agrees with PyTorch within" in capsys.readouterr().out
    monkeypatch.setattr(model.export, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="a.onnx: differs from PyTorch by"):
        main([str(tiny_checkpoint), str(tmp_path / "a.onnx")])


@pytest.mark.parametrize("output, words", [("a.pt", "is an .onnx file"), ("none/a.onnx", "No such folder")])
def test_the_command_refuses_what_it_cannot_write(tiny_checkpoint, tmp_path, output, words):
    with pytest.raises((ValueError, OSError), match=words):
        main([str(tiny_checkpoint), str(tmp_path / output)])
