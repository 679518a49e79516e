"""A small WaveGrad, small recordings, and the golden tensors that public implementations computed."""

import json
import os
from pathlib import Path

# The tests say what the CPU does. Those marked `gpu` run in a process of their own, where test_gpu.py finds a GPU.
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
ON_GPU = os.environ.get("WAVEGRAD_TESTS") == "gpu"
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from extensions.registry import make_network
from model.checkpoint import save_weights
from model.config import load_config, parse_config
from tests.synthetic_speech import synthetic_speech

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"


def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker("gpu")
        if marker and not ON_GPU and not marker.kwargs.get("rehearsed"):
            item.add_marker(pytest.mark.skip(reason="runs in test_gpu.py, where there is a GPU"))


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    from tests.processes import end_all  # which imports this

    end_all()


def tiny_config_values(**changes):
    """A configuration of 5,829 parameters at 8 kHz, hop 40, as plain values; the `changes` are sections or keys, as mel__power=1.0."""
    values = json.loads((DATA / "tiny.json").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values.setdefault(section, {})[name] = value
        else:
            values[section] = value
    return values


def config_of(values):
    return parse_config(json.dumps(values), "test.json")


def changed_config(**changes):
    """The `Config` of `tiny_config_values`."""
    return config_of(tiny_config_values(**changes))


def mel_config(**changes):
    """The `MelConfig` of `tiny_config_values` with other values of its keys."""
    return changed_config(mel=tiny_config_values()["mel"] | changes).mel


def seeded_network(config):
    """The untrained network of a configuration, the same every time, for inference."""
    torch.manual_seed(0)
    return make_network(config).eval()


@pytest.fixture
def tiny_config():
    return changed_config()


@pytest.fixture
def tiny_network(tiny_config):
    return seeded_network(tiny_config)


@pytest.fixture
def tiny_checkpoint(tmp_path, tiny_network, tiny_config):
    path = tmp_path / "tiny.safetensors"
    save_weights(tiny_network, tiny_config, path)
    return path


@pytest.fixture
def write_recording():
    """write_recording(path, seconds, ...): synthetic speech, as an audio file."""

    def write(path, seconds=1.0, sample_rate=8000, channels=1, seed=0):
        audio = synthetic_speech(seconds, sample_rate, seed=seed).numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([audio] * channels, axis=1), sample_rate)
        return path

    return write


def with_flac_length(path, n_samples):
    """Changes the number of samples that the header of a FLAC file tells; 0 is "unknown"."""
    content = bytearray(path.read_bytes())
    assert content[:4] == b"fLaC"
    content[21] = content[21] & 0xF0 | n_samples >> 32  # the lower half of a byte, and four more
    content[22:26] = (n_samples & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n, usable): as if there were such GPUs."""

    def pretend(n, usable=True):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)

    return pretend


def golden(name):
    """The tensors of a file in tests/data, which a public implementation computed."""
    return torch.load(DATA / name, weights_only=True)


@pytest.fixture(scope="session")
def default_config():
    return load_config(ROOT / "configs" / "default.json")


def assert_log_mels_agree(found, expected, sixty_db):
    """Equal up to rounding. Magnitudes far below the loudest are mostly the rounding of the Fourier transform, which differs
    between processors: by 5e-4 in log10 at 90 dB below.

    Args:
        sixty_db: what 60 dB are on the scale of the features.
    """
    loud = expected > expected.max() - sixty_db
    assert loud.float().mean() > 0.2
    torch.testing.assert_close(found[loud], expected[loud], atol=1e-5, rtol=0)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
