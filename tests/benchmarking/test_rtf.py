"""`benchmark.py rtf`."""

import json

import pytest

from extensions.onnx.export import main as export
from extensions.registry import make_network


@pytest.fixture
def rtf(command, filelist, tmp_path):
    """rtf(*arguments): the results of the command, or its error where it refuses."""

    def run(*arguments):
        status, _, error = command("rtf", "--filelist", filelist, "--seconds", 0.5, "--repeats", 2, "-o", tmp_path / "rtf", *arguments)
        return error if status else json.loads((tmp_path / "rtf.json").read_text())["results"]

    return run


def test_real_time_factors(rtf, tiny_checkpoint, tmp_path):
    """Fails if a precision, batch size or number of steps is left out, or a file is not timed."""
    results = rtf("-ch", tiny_checkpoint, "--steps", 1, 3, "--batch_sizes", 1, 2, "--variants", "float32", "bfloat16")
    texts = [f"{tiny_checkpoint}:{name}:{steps}" for steps in (1, 3) for name in ("float32", "bfloat16")]
    assert [(result["case"], result["batch_size"]) for result in results] == [(text, size) for size in (1, 2) for text in texts]
    assert {(result["batch_size"], result["n_timings"]) for result in results} == {(1, 6), (2, 6)}
    assert results[0]["speed_ratio"] == 1 and all(result["real_time_factor"] > 0 for result in results)
    assert "real time factor" in (tmp_path / "rtf.md").read_text()


def test_networks_side_by_side(rtf, tiny_checkpoint, tiny_config, tmp_path):
    """Fails if a case has the network, steps or schedule of another one, or a graph cannot be timed beside them."""
    (tmp_path / "config.json").write_text(tiny_config.model_dump_json())
    (tmp_path / "one.json").write_text('{"betas": [0.1], "griffin_lim": 3}')
    graph = tmp_path / "graph.onnx"
    assert export(["-ns", "linear:2:1e-3:0.5", str(tiny_checkpoint), str(graph)]) == 0
    cases = [f"{tmp_path / 'config.json'}:float32:6", f"{tiny_checkpoint}:float32:{tmp_path / 'one.json'}+2", graph]
    first, second, third = rtf("--cases", *cases)
    n_parameters = sum(parameter.numel() for parameter in make_network(tiny_config).parameters())
    assert [result["parameters"] for result in (first, second, third)] == [n_parameters, n_parameters, None]
    assert first["speed_ratio"] == 1 and second["speed_ratio"] > 0 and third["real_time_factor"] > 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--cases", "a.json"], "no case (expected: NETWORK:VARIANT:STEPS"),
        (["--cases", "CHECKPOINT:fast:6"], "no case (expected: NETWORK:VARIANT:STEPS"),
        (["--cases", "CHECKPOINT:float32:0"], "0: no noise schedule"),
        (["--cases", "CHECKPOINT.onnx"], "not a synthesis written by extensions.onnx.export"),
        (["-ch", "CHECKPOINT", "-o", "none/rtf"], "none: No such folder"),
        (["-ch", "CHECKPOINT", "--sampler", "euler"], "sampler 'euler'"),
    ],
)
def test_what_cannot_be_timed_is_one_line(rtf, tiny_checkpoint, arguments, said):
    error = rtf(*(argument.replace("CHECKPOINT", str(tiny_checkpoint)) for argument in arguments))
    assert error.count("\n") == 1 and said in error


def test_streaming_side_by_side(rtf, tiny_checkpoint):
    case = f"{tiny_checkpoint}:float32:2"
    results = rtf("--streaming", 1, 20, "--cases", case, f"{case}+2")
    assert [(result["case"], result["piece_frames"]) for result in results] == [(case, 1), (case, 20), (f"{case}+2", 1), (f"{case}+2", 20)]
    assert results[2]["latency_seconds"] - results[0]["latency_seconds"] == pytest.approx(2 * 4 * 40 / 8000)
    assert all(result["computing_share"] > 0 and result["slowest_piece"] > 0 for result in results)
