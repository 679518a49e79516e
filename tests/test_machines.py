"""Systems that lack what Linux has, as Windows and macOS do: simulated, for there are none here."""

import json

import pytest
import torch

from common.device import finest_float
from model import diffusion
from model.noise_schedule import linear
from model.pipeline import Pipeline
from tests.conftest import ROOT
from tests.processes import PYTHON, run_to_end
from tests.test_imports import SOURCES
from tests.training_fixtures import write_run

# As on Windows: these modules, signals and functions are not there. PyTorch and others are imported before, on Linux as they are.
WITHOUT = """
import os, runpy, signal, sys, multiprocessing
import torch, torch._dynamo, torch.utils.tensorboard, librosa, soundfile, torch.distributed.run, torch.utils.data
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGQUIT"):
    delattr(signal, name)
for name in ("sched_getaffinity", "killpg"):
    delattr(os, name)
"""


def run_without(code):
    return run_to_end(PYTHON, "-c", WITHOUT + code)


def test_everything_can_be_imported_without_linux():
    """Fails if a module needs `fcntl`, `resource` or a signal of Linux as it is imported."""
    modules = [path.relative_to(ROOT).with_suffix("").parts for path in [*SOURCES, ROOT / "onnx_inference.py"]]
    without = ("__init__", "make_unseen_speakers", "make_voices")  # the latter two need a package of their own
    names = sorted(".".join(parts) for parts in modules if parts[-1] not in without)
    assert len(names) > 70
    result = run_without(f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\nprint('done')")
    assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr


def test_training_and_vocoding_without_linux(tmp_path):
    """Fails if a run or `inference.py` uses what is not there."""
    config = write_run(tmp_path, n_steps=2, save_every=2)
    (tmp_path / "s.json").write_text(json.dumps({"betas": [0.1, 0.5]}))
    checkpoint, output = tmp_path / "log" / "checkpoint-00000002.pt", tmp_path / "out"
    commands = [
        ["train.py", "-c", config, "-l", tmp_path / "log", "--dry-run"],
        ["train.py", "-c", config, "-l", tmp_path / "log"],
        ["inference.py", "-ch", checkpoint, "-ns", tmp_path / "s.json", "-m", tmp_path / "train.txt", "-o", output],
    ]
    for command in commands:
        argv = [str(part) for part in command]
        result = run_without(f"sys.argv = {argv!r}; sys.path.insert(0, '.')\nrunpy.run_path({argv[0]!r}, run_name='__main__')")
        assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out").glob("*.wav"))) == 6


@pytest.mark.parametrize("device, wanted", [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)])
def test_apples_gpus_have_no_float64(device, wanted):
    """Fails if the noise level is float64 there, which PyTorch refuses."""
    assert finest_float(torch.device(device)) == wanted


def test_a_noise_level_in_float32_gives_the_same_waveform(tiny_network, monkeypatch):
    """Fails if a network cannot take the noise level in float32, as on Apple's GPUs."""
    mel, noises = torch.randn(1, 20, 9), [torch.randn(1, 360) for _ in range(3)]
    wanted = Pipeline(tiny_network, linear(3, 1e-3, 0.6), "ddim")(mel, noises=noises)
    monkeypatch.setattr(diffusion, "finest_float", lambda device: torch.float32)
    found = Pipeline(tiny_network, linear(3, 1e-3, 0.6), "ddim")(mel, noises=noises)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
