"""A synthesis as one ONNX graph: what PyTorch computes, at any size, and without PyTorch."""

import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

import extensions.onnx.export
import onnx_inference
from common.errors import InputError, run_command
from extensions.onnx.export import CHECKED_SIZES, EXAMPLE_SIZE, OnnxSynthesis, example, export, main
from extensions.onnx.synthesis_graph import Synthesis
from extensions.registry import make_pipeline
from model.noise_schedule import NoiseSchedule
from tests.conftest import changed_config, seeded_network, tiny_config_values
from tests.processes import PYTHON, run_to_end

SYNTHESES = {
    "noise": (NoiseSchedule([1e-3, 0.1, 0.5], sampler="ancestral"), 0, 3),
    "second order, GLA-Grad": (NoiseSchedule([1e-3, 0.1, 0.5], sampler="sde-dpm-solver"), 2, 3),
    "spectral prior": (NoiseSchedule([1e-3, 0.1, 0.5], sampler="ddim"), 0, 1),
    "estimate, prior": (NoiseSchedule([0.1, 0.5], sampler="ddim", griffin_lim=3), 1, 1),
}


def synthesis_config(name):
    """A configuration: with a prior, a window shorter than its spectrum, frames in the middle of their hop, or nearest samples."""
    if "spectral" in name:
        return changed_config(prior={"kind": "spectral", "relative_floor": 0.01, "floor": 0.001}, network__prediction="velocity")
    if "prior" in name:
        mel = {"win_length": 120, "padding": "same", "log": "ln", "mean": -4.0, "std": 2.0, "power": 1.0}
        return changed_config(mel=tiny_config_values()["mel"] | mel, prior={"loudest": 2.0})
    if "GLA-Grad" in name:
        return changed_config(network__interpolation="nearest")
    return changed_config(prior={"loudest": 50.0})  # a quiet waveform, of which nothing is clipped


@pytest.fixture(scope="module", params=SYNTHESES)
def synthesis(request, tmp_path_factory):
    """Network, configuration, schedule, iterations of GLA-Grad, the module and its ONNX file."""
    schedule, gla_grad, n_noises = SYNTHESES[request.param]
    config = synthesis_config(request.param)
    network = seeded_network(config)
    torch.nn.init.normal_(network.output_conv.weight, std=0.02)  # or nearly all samples would be clipped
    module = Synthesis(network, config, schedule, gla_grad=gla_grad).eval()
    assert module.n_noises == n_noises
    path = tmp_path_factory.mktemp("synthesis") / "tiny.onnx"
    export(module, config, path)
    return network, config, schedule, gla_grad, module, path


@pytest.mark.parametrize("batch, frames", [(1, 6), (3, 33), (1, 100)])
@torch.inference_mode()
def test_one_graph_is_the_whole_synthesis(synthesis, batch, frames):
    """Fails if prior, estimate, a step, noise or correction is another than the pipeline's, at sizes it was not exported with."""
    network, config, schedule, gla_grad, module, path = synthesis
    assert (batch, frames) != EXAMPLE_SIZE and EXAMPLE_SIZE not in CHECKED_SIZES
    mel, noise = example(module, batch, frames, config.mel, seed=3)
    expected = make_pipeline(network, config, schedule, gla_grad=gla_grad)(mel, noises=noise.unbind(1))
    assert expected.abs().mean() > 1e-3 and (expected.abs() == 1).float().mean() < 0.1
    torch.testing.assert_close(OnnxSynthesis(path)(mel, noise), expected, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    config = synthesis_config("")
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export(Synthesis(seeded_network(config), config, NoiseSchedule([0.5]), gla_grad=1).eval(), config, path)
    return path


@pytest.fixture
def arguments(graph, tmp_path):
    np.save(tmp_path / "m.npy", np.full((20, 6), -5.0, np.float32))
    return [graph, tmp_path / "m.npy", tmp_path / "out.wav"]


@pytest.fixture
def run(capsys):
    """run(arguments): exit status and standard error of `onnx_inference.py`."""

    def run(arguments):
        with pytest.raises(SystemExit) as exit_:
            run_command(lambda: onnx_inference.main([str(argument) for argument in arguments]))
        return exit_.value.code, capsys.readouterr().err

    return run


def test_synthesises_without_pytorch(arguments, tmp_path):
    """In an interpreter where importing it, or what needs it, fails."""
    code = (
        "import sys\n"
        "for name in ('torch', 'torchaudio', 'scipy', 'librosa', 'safetensors', 'pydantic', 'model', 'extensions'):\n"
        "    sys.modules[name] = None\n"
        f"import onnx_inference; sys.exit(onnx_inference.main({[*map(str, arguments)]!r}))"
    )
    result = run_to_end(PYTHON, "-c", code)
    assert result.returncode == 0, result.stderr
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate, info.subtype) == (240, 8000, "PCM_16")


@pytest.mark.parametrize(
    "place, write, words",
    [
        (0, lambda path: path.write_bytes(b"nonsense"), "not a whole synthesis"),
        (0, lambda path: None, "No such file"),
        (0, lambda path: path.mkdir(), "Is a directory"),
        (1, lambda path: torch.save(torch.zeros(20, 6), path), "not a NumPy array"),
        (1, lambda path: np.savez(open(path, "wb"), np.zeros((20, 6))), "not a NumPy array"),
        (1, lambda path: np.save(open(path, "wb"), np.zeros((21, 6))), "shape .21, 6."),
        (1, lambda path: np.save(open(path, "wb"), np.zeros((20, 2))), "3 frames or more"),
        (1, lambda path: np.save(open(path, "wb"), np.full((20, 6), np.inf)), "finite"),
        (1, lambda path: np.save(open(path, "wb"), np.zeros((20, 6), complex)), "holds complex128"),
        (1, lambda path: None, "No such file"),
        (2, lambda path: path.mkdir(), "cannot be written"),
        (2, lambda path: path / "out.wav", "No such folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, tmp_path, run, place, write, words):
    path = tmp_path / "bad"
    other = write(path)
    arguments[place] = other if isinstance(other, Path) else path
    status, error = run(arguments)
    assert status == 2 and error.count("\n") == 1 and re.search(words, error) and "bad" in error
    assert not (tmp_path / "out.wav").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("changes", [None, {"n_mels": "many"}, {"n_mels": "21"}, {"hop_length": "0"}, {"n_noises": "9" * 5000}])
def test_damaged_metadata_is_one_line(arguments, tmp_path, run, changes):
    model = onnx.load(arguments[0])
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    if changes is not None:
        onnx.helper.set_model_props(model, metadata | changes)
    onnx.save(model, tmp_path / "bad.onnx")
    status, error = run([tmp_path / "bad.onnx", *arguments[1:]])
    assert status == 2 and error.count("\n") == 1 and "bad.onnx: not a whole synthesis written by extensions.onnx.export" in error


def test_takes_what_people_have(arguments, tmp_path, run):
    """Big-endian, double and half-precision mels, with a first axis of one; options may stand between the files."""
    waveforms = []
    for dtype in (">f4", "f8", "f2"):
        np.save(tmp_path / "m.npy", np.full((1, 20, 6), -5.0, dtype))
        assert run([arguments[0], "--seed", 3, *arguments[1:]]) == (0, "")
        waveforms.append(soundfile.read(tmp_path / "out.wav")[0])
    assert all(np.array_equal(waveforms[0], other) for other in waveforms[1:])
    status, error = run([*arguments, "--seed", "-1"])
    assert status == 2 and error.count("\n") == 1 and "--seed is -1" in error


@pytest.mark.parametrize("place", [0, 1])
def test_an_input_is_not_overwritten(arguments, tmp_path, run, place):
    source, arguments[2] = arguments[place], tmp_path / "link.wav"
    content = source.read_bytes()
    os.link(source, arguments[2])
    status, error = run(arguments)
    assert status == 2 and error.startswith(f"error: {arguments[2]}: the result would overwrite {source}")
    assert source.read_bytes() == content


def test_the_command_checks_what_it_wrote(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    path = str(tmp_path / "a.onnx")
    options = ["-ns", "linear:3:1e-3:0.6", "--steps", "2", "--sampler", "ddim", "--gla_grad", "1"]
    assert main([str(tiny_checkpoint), path, *options]) == 0
    assert "agrees with PyTorch at" in capsys.readouterr().out
    graph = OnnxSynthesis(path)
    assert (graph.n_steps, graph.n_noises, graph.fewest_frames) == (2, 1, 3)
    monkeypatch.setattr(extensions.onnx.export, "LEAST_SNR", 1000)
    with pytest.raises(InputError, match=r"a.onnx: is .* dB to PyTorch .expected: 1000 or more"):
        main([str(tiny_checkpoint), path, "-ns", "linear:3:1e-3:0.6"])
    assert OnnxSynthesis(path).n_steps == 2, "a graph that does not agree has replaced one that does"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "output, schedule, words",
    [
        ("a.pt", "linear:3:1e-3:0.6", "is an .onnx file"),
        ("none/a.onnx", "linear:3:1e-3:0.6", "No such folder"),
        ("link.onnx", "linear:3:1e-3:0.6", "the result would overwrite"),
        ("a.onnx", "schedules/universal-22k-1.json", "a graph has no loop over frames"),
    ],
)
def test_the_command_refuses_what_it_cannot_write(tiny_checkpoint, tmp_path, output, schedule, words):
    (tmp_path / "link.onnx").symlink_to(tiny_checkpoint)
    content = tiny_checkpoint.read_bytes()
    with pytest.raises((InputError, OSError), match=words):
        main([str(tiny_checkpoint), str(tmp_path / output), "-ns", schedule])
    assert tiny_checkpoint.read_bytes() == content


def test_the_command_is_found_under_its_old_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export.py", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("model.export", run_name="__main__")
    assert exit_.value.code == 0 and capsys.readouterr().out.startswith("usage: python -m extensions.onnx.export")
