"""The network as ONNX: what PyTorch computes, at any size; and synthesis without PyTorch."""

import json
import os
import re
import signal
import sys
import wave

import numpy as np
import onnx
import pytest
import soundfile
import torch

import model.export
import onnx_inference
from common.errors import InputError
from model.config import parse_config
from model.export import (
    CHECKED_SIZES,
    EXAMPLE_SIZE,
    TOLERANCE,
    OnnxNetwork,
    OnnxSynthesis,
    example,
    export,
    export_synthesis,
    main,
    synthesis_example,
)
from model.gla_grad import GlaGrad
from model.mel.presets import preset
from model.network import WaveGrad, new_network
from model.noise_schedule import NoiseSchedule, linear
from model.published import load_published
from model.sampler import DEFAULT_SAMPLER, SAMPLERS
from model.synthesis_graph import Synthesis
from tests.conftest import config_of, tiny_config_values
from tests.processes import PYTHON, run_to_end


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
    onnx_network, draw = onnx_inference.Network(OnnxNetwork(path).session), lambda shape: next(given).numpy()
    found = onnx_inference.sample(onnx_network, mel[0].numpy(), schedule.betas, 40, draw, *onnx_inference.SAMPLERS[sampler])
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
    result = run_to_end(PYTHON, "-c", code)
    assert result.returncode == 0, result.stderr
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate, info.subtype) == (240, 8000, "PCM_16")


@pytest.mark.parametrize(
    "place, content, words",
    [
        (0, b"nonsense", "not an ONNX file"),
        (0, b"", "not an ONNX file"),
        (0, "missing", "No such file"),
        (0, "folder", "not a regular file"),
        (1, b"nonsense", "not JSON"),
        (1, b"[" * 100_000, "not JSON"),
        (1, b"[1" + b"0" * 400 + b"]", "not a noise schedule"),
        (1, b"[1" + b"0" * 5000 + b"]", "not JSON"),
        (1, b"5", "not a noise schedule"),
        (1, b'{"betas": [0.1], "sampler": []}', "not a noise schedule"),
        (1, b"{}", "not a noise schedule"),
        (1, b'{"betas": [0.1], "griffin_lim": 2}', "it starts from Griffin-Lim's estimate"),
        (1, b'{"betas": [2]}', "inside .0, 1."),
        (1, b'{"betas": [0.1], "sampler": "euler"}', "one of ancestral, "),
        (1, "missing", "No such file"),
        (2, b"nonsense", "not a NumPy array"),
        (2, lambda path: torch.save(torch.zeros(20, 6), path), "an archive, as of .npz or PyTorch's .pt"),
        (2, lambda path: np.savez(open(path, "wb"), np.zeros((20, 6))), "an archive"),
        (2, lambda path: np.save(open(path, "wb"), np.zeros((21, 6))), "shape .21, 6."),
        (2, lambda path: np.save(open(path, "wb"), np.full((20, 6), 1e300)), "finite"),
        (2, lambda path: np.save(open(path, "wb"), np.zeros((20, 6), complex)), "holds complex128"),
        (2, lambda path: np.save(open(path, "wb"), np.full((20, 6), "a")), "holds <U1"),
        (2, "missing", "No such file"),
        (2, "folder", "not a regular file"),
        (3, "folder", "cannot be written"),
        (3, "missing/out.wav", "cannot be written"),
        (3, "a" * 300 + "bad", "File name too long"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, tmp_path, monkeypatch, capsys, place, content, words):
    path = tmp_path / "bad"
    if content == "folder":
        path.mkdir()
    elif callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content != "missing":
        path = path / content if "/" in content else tmp_path / content
    arguments[place] = path
    monkeypatch.setattr(sys, "argv", ["onnx_inference.py", *map(str, arguments)])
    assert onnx_inference.main() == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(words, error) and "bad" in error
    assert not (tmp_path / "out.wav").exists() and not list(tmp_path.glob(".*"))


@pytest.fixture(autouse=True)
def handlers():
    """The command handles signals until its process ends, which here goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run_onnx_inference(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onnx_inference.py", *map(str, arguments)])
    status = onnx_inference.main()
    return status, capsys.readouterr().err


PRIOR = {"prior": {"loudest": 1.0, "floor": 0.1}, "mel": {"power": 2.0, "std": 1.0, "mean": 0.0, "log": "ln"}}


@pytest.mark.parametrize(
    "changes, words",
    [
        (None, "not a graph written by model.export"),
        ({"n_mels": "many"}, "the n_mels 'many' .wanted: a whole number above 0"),
        ({"n_mels": "21"}, r"says 21 mel bands, its graph \[20\]"),
        ({"hop_length": "0"}, "the hop_length '0'"),
        ({"hop_length": "9" * 5000}, "the hop_length '999"),
        ({"hop_length": "41"}, "fails for 6 frames of 41 samples"),
        ({"sample_rate": "-8000"}, "the sample_rate '-8000'"),
        ({"config": "{"}, "configuration in its metadata is not JSON"),
        ({"config": "[" * 100_000}, "configuration in its metadata is not JSON"),
        ({"config": "[]"}, "is no dictionary"),
        ({"config": json.dumps({"prior": 1})}, "no number mel.power"),
        ({"config": json.dumps(PRIOR | {"prior": {"loudest": "a", "floor": 0.1}})}, "no number prior.loudest"),
        ({"config": json.dumps(PRIOR | {"mel": PRIOR["mel"] | {"log": "log2"}})}, "no mel.log"),
    ],
)
def test_damaged_metadata_is_one_line(arguments, tmp_path, monkeypatch, capsys, changes, words):
    network = onnx.load(arguments[0])
    metadata = {entry.key: entry.value for entry in network.metadata_props}
    del network.metadata_props[:]
    if changes is not None:
        onnx.helper.set_model_props(network, metadata | changes)
    onnx.save(network, tmp_path / "bad.onnx")
    status, error = run_onnx_inference([tmp_path / "bad.onnx", *arguments[1:]], monkeypatch, capsys)
    assert status == 2 and error.count("\n") == 1 and "bad.onnx: " in error and re.search(words, error)
    assert not (tmp_path / "out.wav").exists()


def test_another_networks_graph_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [onnx.ValueInfoProto(name="y")])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "other.onnx")
    status, error = run_onnx_inference([tmp_path / "other.onnx", *arguments[1:]], monkeypatch, capsys)
    assert status == 2 and error.count("\n") == 1 and "other.onnx: not a graph written by model.export" in error


def test_takes_what_people_have(arguments, tmp_path, monkeypatch, capsys):
    """A byte-order mark, a bare list, big-endian or half-precision mels."""
    (tmp_path / "s.json").write_bytes(b"\xef\xbb\xbf[0.001, 0.6]")
    waveforms = []
    for dtype in (">f4", "f8", "f2"):
        np.save(tmp_path / "m.npy", np.full((1, 20, 6), -5.0, dtype))
        assert run_onnx_inference(arguments, monkeypatch, capsys) == (0, "")
        waveforms.append(soundfile.read(tmp_path / "out.wav")[0])
    assert all(np.array_equal(waveforms[0], other) for other in waveforms[1:])


def test_a_waveform_that_is_not_finite_is_no_file(arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "s.json").write_text("[1e-20, 1e-20]")
    status, error = run_onnx_inference(arguments, monkeypatch, capsys)
    assert status == 2 and error.count("\n") == 1 and "NaN or infinity" in error
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_an_input_is_not_overwritten(arguments, tmp_path, monkeypatch, capsys, place, link):
    source = arguments[place]
    content, arguments[3] = source.read_bytes(), source
    if link:
        arguments[3] = tmp_path / "link.wav"
        link(source, arguments[3])
    status, error = run_onnx_inference(arguments, monkeypatch, capsys)
    assert (status, error) == (2, f"error: {arguments[3]}: the result would overwrite {source} (wanted: another name)\n")
    assert source.read_bytes() == content


def test_a_seed_that_is_none_says_what_is_wanted(arguments, monkeypatch, capsys):
    for seed in ("x", "-1", str(2**47)):
        with pytest.raises(SystemExit) as exit_:
            run_onnx_inference([*arguments, f"--seed={seed}"], monkeypatch, capsys)
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and error.count("\n") == 1
        assert f"--seed: '{seed}' (wanted: a whole number, 0 to {2**47 - 1})" in error


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_hangup_ends_the_command_unless_it_is_ignored(arguments, tmp_path, is_ignored):
    """As `nohup` ignores it."""
    code = (
        "import os, signal, sys, wave\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if is_ignored else 'SIG_DFL'})\n"
        "write = wave.Wave_write.writeframes\n"
        "wave.Wave_write.writeframes = lambda *given: os.kill(os.getpid(), signal.SIGHUP) or write(*given)\n"
        f"sys.argv = {['onnx_inference.py', *map(str, arguments)]!r}\n"
        "import onnx_inference; sys.exit(onnx_inference.main())"
    )
    result = run_to_end(PYTHON, "-c", code)
    assert (result.returncode, result.stderr) == (0 if is_ignored else 128 + signal.SIGHUP, "")
    assert (tmp_path / "out.wav").exists() == is_ignored and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("stop", [lambda: os.kill(os.getpid(), signal.SIGTERM), lambda: np.zeros(1)[2]], ids=["SIGTERM", "error"])
def test_a_stopped_command_leaves_no_temporary_file_and_the_file_before(arguments, tmp_path, monkeypatch, stop):
    (tmp_path / "out.wav").write_bytes(b"before")
    monkeypatch.setattr(wave.Wave_write, "writeframes", lambda *_: stop())
    monkeypatch.setattr(sys, "argv", ["onnx_inference.py", *map(str, arguments)])
    with pytest.raises((SystemExit, IndexError)):
        onnx_inference.main()
    assert (tmp_path / "out.wav").read_bytes() == b"before" and not list(tmp_path.glob(".*"))


def test_the_command_checks_what_it_wrote(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    assert main([str(tiny_checkpoint), str(tmp_path / "a.onnx")]) == 0
    assert "agrees with PyTorch at" in capsys.readouterr().out
    (tmp_path / "a.onnx").unlink()
    monkeypatch.setattr(model.export, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"a.onnx: is .* from PyTorch .wanted: at most 0"):
        main([str(tiny_checkpoint), str(tmp_path / "a.onnx")])
    assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob(".*"))


def test_the_command_does_not_overwrite_its_checkpoint(tiny_checkpoint, tmp_path):
    checkpoint, link = tmp_path / "a.onnx", tmp_path / "link.onnx"
    tiny_checkpoint.rename(checkpoint)
    link.symlink_to(checkpoint)
    content = checkpoint.read_bytes()
    for output in (checkpoint, link):
        with pytest.raises(InputError, match=f"{output}: the result would overwrite"):
            main([str(checkpoint), str(output)])
    assert checkpoint.read_bytes() == content


@pytest.mark.parametrize("output, words", [("a.pt", "is an .onnx file"), ("none/a.onnx", "No such folder")])
def test_the_command_refuses_what_it_cannot_write(tiny_checkpoint, tmp_path, output, words):
    with pytest.raises((ValueError, OSError), match=words):
        main([str(tiny_checkpoint), str(tmp_path / output)])


SYNTHESES = {
    "noise": (NoiseSchedule([1e-3, 0.1, 0.5], sampler="ancestral"), 0, 3),
    "deterministic": (NoiseSchedule([1e-3, 0.1, 0.5], sampler="ddim"), 0, 1),
    "second order, GLA-Grad": (NoiseSchedule([1e-3, 0.1, 0.5]), 2, 3),
    "estimate, prior": (NoiseSchedule([0.1, 0.5], sampler="ddim", griffin_lim=3), 1, 1),
}


def synthesis_config(name):
    """A configuration, with a window shorter than its spectrum, frames in the middle of their hop, and a prior."""
    values = tiny_config_values()
    if "prior" in name:
        values["mel"] |= {"win_length": 120, "padding": "same", "log": "ln", "mean": -4.0, "std": 2.0, "power": 1.0}
        values["prior"] = {"loudest": 2.0}
    elif "GLA-Grad" not in name:
        values["prior"] = {"loudest": 50.0}  # a quiet waveform, of which nothing is clipped
    return config_of(values)


@pytest.fixture(scope="module", params=SYNTHESES)
def synthesis(request, tmp_path_factory):
    """Network, configuration, schedule, iterations of GLA-Grad, the module and its ONNX file."""
    schedule, gla_grad, n_noises = SYNTHESES[request.param]
    config = synthesis_config(request.param)
    torch.manual_seed(0)
    network = new_network(config).eval()
    torch.nn.init.normal_(network.output_conv.weight, std=0.02)  # or nearly all samples would be clipped
    module = Synthesis(network, config.mel, schedule, gla_grad=gla_grad).eval()
    assert module.n_noises == n_noises
    path = tmp_path_factory.mktemp("synthesis") / "tiny.onnx"
    export_synthesis(module, config, path)
    return network, config, schedule, gla_grad, module, path


@pytest.mark.parametrize("batch, frames", [(1, 6), (3, 33), (1, 100)])
@torch.inference_mode()
def test_one_graph_is_the_whole_synthesis(synthesis, batch, frames):
    """Fails if prior, estimate, a step, noise or correction is another than the sampler's, at sizes it was not exported with."""
    network, config, schedule, gla_grad, module, path = synthesis
    mel, noise = synthesis_example(module, batch, frames, config.mel, seed=3)
    noises = [noise[:, i] for i in range(module.n_noises)]
    wanted = SAMPLERS[schedule.sampler or DEFAULT_SAMPLER](network, mel, schedule, noises=noises)
    if gla_grad:
        wanted = GlaGrad(config.mel, gla_grad)(wanted, mel)
    assert wanted.abs().mean() > 1e-3 and (wanted.abs() == 1).float().mean() < 0.1
    torch.testing.assert_close(OnnxSynthesis(path)(mel, noise), wanted, atol=1e-3, rtol=0)


def test_a_graph_of_a_synthesis_needs_no_schedule(synthesis, tmp_path, monkeypatch, capsys):
    """Fails if the script draws another number of noises, or runs a mel that is too short for the windows."""
    module, path = synthesis[-2:]
    for frames in (module.fewest_frames, 30):
        np.save(tmp_path / "m.npy", np.full((20, frames), -1.0, np.float32))
        assert run_onnx_inference([path, tmp_path / "m.npy", tmp_path / "out.wav"], monkeypatch, capsys) == (0, "")
        assert soundfile.info(tmp_path / "out.wav").frames == 40 * frames
    linear(3, 1e-3, 0.6).save(tmp_path / "s.json")
    status, error = run_onnx_inference([path, tmp_path / "s.json", tmp_path / "m.npy", tmp_path / "out.wav"], monkeypatch, capsys)
    assert status == 2 and error.count("\n") == 1 and "has its own schedule and sampler" in error
    if module.fewest_frames > 1:
        np.save(tmp_path / "m.npy", np.zeros((20, module.fewest_frames - 1)))
        status, error = run_onnx_inference([path, tmp_path / "m.npy", tmp_path / "out.wav"], monkeypatch, capsys)
        assert status == 2 and f"m.npy: {module.fewest_frames - 1} frames (wanted by {path}: {module.fewest_frames} or more)" in error


def test_options_may_stand_anywhere(arguments, monkeypatch, capsys):
    graph, schedule, mel, output = arguments
    for line in ([graph, "--sampler", "ddim", schedule, mel, output], [graph, schedule, "--seed", 1, mel, output]):
        assert run_onnx_inference(line, monkeypatch, capsys) == (0, "")


def test_a_graph_of_a_network_needs_a_schedule(arguments, monkeypatch, capsys):
    status, error = run_onnx_inference([arguments[0], *arguments[2:]], monkeypatch, capsys)
    assert status == 2 and error.count("\n") == 1 and "needs a noise schedule (wanted: GRAPH SCHEDULE MEL OUTPUT)" in error


def test_the_command_writes_a_synthesis(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    path = str(tmp_path / "a.onnx")
    assert main([str(tiny_checkpoint), path, "-ns", "linear:3:1e-3:0.6", "--steps", "2", "--sampler", "ddim", "--gla_grad", "1"]) == 0
    assert "dB to PyTorch; wanted: 40 or more" in capsys.readouterr().out
    graph = OnnxSynthesis(path)
    assert (graph.n_steps, graph.n_noises, graph.fewest_frames) == (2, 1, 3)
    with pytest.raises(InputError, match="a.onnx: not a network written by model.export .its inputs are mel, noise; wanted: y_n"):
        OnnxNetwork(path)
    with pytest.raises(InputError, match="--steps, --sampler and --gla_grad are of a synthesis"):
        main([str(tiny_checkpoint), path, "--steps", "2"])
    with pytest.raises(InputError, match="sampler 'heun' is unknown"):
        main([str(tiny_checkpoint), path, "-ns", "linear:3:1e-3:0.6", "--sampler", "heun"])
    monkeypatch.setattr(model.export, "LEAST_SYNTHESIS_SNR", 1000)
    with pytest.raises(InputError, match=r"a.onnx: is .* dB to PyTorch .wanted: 1000 or more"):
        main([str(tiny_checkpoint), path, "-ns", "linear:3:1e-3:0.6"])
    assert OnnxSynthesis(path).n_steps == 2, "a graph that does not agree has replaced one that does"
