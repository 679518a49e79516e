"""The check of a GPU, rehearsed on the CPU, and what it reports."""

import pytest

from benchmarking import gpu_check
from benchmarking.gpu_check import judged
from tests.processes import PYTHON, run_to_end


def test_a_rehearsal_passes(tmp_path):
    """By the real command. Fails if a check does not fit the project any more."""
    result = run_to_end(PYTHON, "benchmark.py", "gpu_check", "--device", "cpu", "--steps", "4", "--minutes", "60", "-o", tmp_path / "a.md")
    report = (tmp_path / "a.md").read_text()
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failed" in report and report.count("| pass |") == result.stdout.count("] pass  ") >= 9
    for words in ("network call, universal-22k, bfloat16", "inference.py, bfloat16", "training, resumed"):
        assert words in report


@pytest.fixture
def checks(monkeypatch):
    def broken(device, folder, n_steps):
        yield "a", "1", "1", True
        raise RuntimeError("CUDA error:\nlost")

    monkeypatch.setattr(gpu_check, "CHECKS", {"broken": broken, "last": lambda *_: [("b", "", "2", True)]})


def test_what_a_check_raises_is_a_failure_and_the_others_go_on(command, checks, tmp_path, capsys):
    options = ["gpu_check", "--device", "cpu", "-o", tmp_path / "report.md"]
    assert command(*options) == 1
    report = (tmp_path / "report.md").read_text()
    assert "2 passed, 1 failed" in report and "RuntimeError: CUDA error: lost" in report and "| b " in report
    assert command(*options, "--minutes", "1e-9") == 1
    assert "not begun after 1e-09 minutes" in (tmp_path / "report.md").read_text()


def test_without_a_gpu_it_says_so(command, tmp_path, capsys):
    assert command("gpu_check", "-o", tmp_path / "report.md") == 2
    assert "--device cuda: not available" in capsys.readouterr().err and not (tmp_path / "report.md").exists()


def test_a_training_is_judged_by_its_losses():
    """Fails if a run that ended early, did not learn or became NaN passes."""

    def judge(losses, status=0):
        output = "".join(f"step {i}  loss {loss}  rest\n" for i, loss in enumerate(losses))
        return judged(type("Result", (), {"returncode": status, "stdout": output, "stderr": "error: x"})(), 30)

    assert judge([1.0] * 15 + [0.5] * 15) == ("loss 1.000 to 0.500", True)
    assert not judge([1.0] * 30)[1]
    assert judge([1.0] * 29 + ["nan"])[1] is False
    assert judge([1.0] * 30, 1) == ("status 1, 30 steps: error: x", False)
