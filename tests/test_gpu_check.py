"""The check of a GPU, rehearsed on the CPU, and what it reports."""

import pytest

from benchmarking.gpu_check import run as gpu_check
from benchmarking.gpu_check.context import Context, Finding
from benchmarking.gpu_check.training import _judged
from common.audio import signal_to_noise
from tests.processes import PYTHON, run_to_end


@pytest.mark.parametrize(
    "checks, n_passed, said",
    [
        (
            ["environment", "agreement", "out_of_memory", "resumption", "two_processes"],
            14,
            ["network call, universal-22k, bfloat16", "training, killed and resumed", "two processes over gloo, InferGrad, adversarial"],
        ),
        (
            ["inference", "precisions", "one_process", "memory", "factors"],
            6,
            ["inference.py, bfloat16", "portions, activation checkpointing", "segments/s", "real-time factor (steps), universal-22k, CPU"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and len(value) == 5 else None,
)
def test_a_rehearsal_passes(checks, n_passed, said, tmp_path):
    """By the real command. Fails if the network, the kill or two processes fail, or a check does not fit the project any more."""
    options = ["--device", "cpu", "--steps", "4", "-o", tmp_path / "report.md", "--only", *checks]
    result = run_to_end(PYTHON, "benchmark.py", "gpu_check", *options)
    report = (tmp_path / "report.md").read_text()
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failed" in report and report.count("| pass |") == result.stdout.count("] pass  ") >= n_passed
    for words in said:
        assert words in report


def test_the_rehearsals_are_of_all_checks():
    rehearsed = next(mark.args[1] for mark in test_a_rehearsal_passes.pytestmark if mark.name == "parametrize")
    assert sorted(name for checks, *_ in rehearsed for name in checks) == sorted(gpu_check.CHECKS)


@pytest.fixture
def checks(monkeypatch):
    def broken(context):
        yield Finding("a", "1", "1", True)
        raise RuntimeError("CUDA error:\nlost")

    monkeypatch.setattr(gpu_check, "CHECKS", {"broken": broken, "last": lambda context: [Finding("b", "", "2")]})


def test_what_a_check_raises_is_a_failure_and_the_others_go_on(command, checks, tmp_path, capsys):
    options = ["gpu_check", "--device", "cpu", "-o", tmp_path / "report.md"]
    assert command(*options) == 1
    report = (tmp_path / "report.md").read_text()
    assert "1 passed, 1 failed" in report and "RuntimeError: CUDA error: lost" in report and "| b " in report
    assert command(*options, "--minutes", "1e-9") == 1
    assert "not begun after 1e-09 minutes" in (tmp_path / "report.md").read_text()


def test_without_a_gpu_it_says_so(command, tmp_path, capsys):
    assert command("gpu_check", "-o", tmp_path / "report.md") == 2
    assert "--device cuda: not available" in capsys.readouterr().err and not (tmp_path / "report.md").exists()


def test_a_training_is_judged_by_its_losses(tmp_path):
    """Fails if a run that ended early, did not learn or became NaN passes."""

    def judged(losses, status=0):
        output = "".join(f"step {i}  loss {loss}  rest\n" for i, loss in enumerate(losses))
        return _judged(type("Result", (), {"returncode": status, "stdout": output, "stderr": "error: x"})(), 30)

    assert judged([1.0] * 15 + [0.5] * 15) == ("loss 1.000 to 0.500", True)
    assert not judged([1.0] * 30)[1]
    assert judged([1.0] * 29 + ["nan"])[1] is False
    assert judged([1.0] * 30, 1) == ("status 1, 30 steps: error: x", False)


def test_signal_to_noise():
    import torch

    reference = torch.ones(1000)
    assert signal_to_noise(reference, reference * 1.1) == pytest.approx(20, abs=1e-3)
    assert Context(torch.device("cpu"), "x", 1).is_rehearsal
