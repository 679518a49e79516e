"""A run so small that it trains in seconds: two seconds of tones and noise, a network of a few hundred weights."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import train
from tests.processes import finish, start_processes

SAMPLE_RATE = 16000
HOP_LENGTH = 20

TINY_CONFIG = {
    "mel": {
        "sample_rate": SAMPLE_RATE,
        "n_fft": 64,
        "win_length": 64,
        "hop_length": HOP_LENGTH,
        "n_mels": 8,
        "f_min": 0.0,
        "f_max": 8000.0,
        "log": "ln",
        "clamp_min": 1e-5,
    },
    "network": {
        "factors": [5, 2, 2],
        "upsampling_preconv_channels": 8,
        "upsampling_channels": [8, 4, 4],
        "upsampling_dilations": [[1, 2, 1, 2], [1, 2, 1, 2], [1, 2, 4, 8]],
        "downsampling_preconv_channels": 4,
        "downsampling_channels": [4, 8],
        "downsampling_dilations": [[1, 2, 4], [1, 2, 4]],
    },
    "noise_schedule": {"name": "linear", "n_steps": 1000, "start": 1e-6, "stop": 0.01},
    "data": {"train_filelist": "train.txt", "validation_filelist": "validation.txt", "segment_frames": 8, "n_workers": 0},
    "training": {
        "batch_size": 4,
        "n_steps": 20,
        "learning_rate": 2e-3,
        "final_learning_rate": 1e-4,
        "warmup_steps": 5,
        "gradient_clip": 1.0,
        "ema_decay": 0.9,
        "precision": "fp32",
        "seed": 0,
        "log_every": 5,
        "validate_every": 1000,
        "save_every": 5,
        "n_previews": 0,
    },
}


def speech_like(seconds, seed):
    """A gliding harmonic tone in noise, `[T]` float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * time + seed)) / SAMPLE_RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 6))
    return (0.1 * tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def write_corpus(folder, recordings, name="train"):
    """Writes recordings (name -> `[T]`) as WAV files with a filelist; returns the filelist's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, audio in recordings.items():
        soundfile.write(folder / f"{stem}.wav", audio, SAMPLE_RATE)
    filelist = folder / f"{name}.txt"
    filelist.write_text("".join(f"{stem}.wav\n" for stem in recordings))
    return filelist


def write_run(folder, **changes):
    """Writes a corpus and a configuration; `changes` are keys with two underscores for the dot, as training__seed=1.

    Returns:
        path of the configuration.
    """
    if not (folder / "train.txt").exists():
        write_corpus(folder, {f"train_{i}": speech_like(0.3, i) for i in range(6)})
        write_corpus(folder, {f"validation_{i}": speech_like(0.6, 10 + i) for i in range(2)}, "validation")
    config = json.loads(json.dumps(TINY_CONFIG))
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def weights_of(path):
    """The training state in a checkpoint without what may differ: versions and the configuration."""
    state = torch.load(path, weights_only=True)
    return {key: value for key, value in state.items() if key not in ("versions", "config")}


def same(a, b):
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


@pytest.fixture(autouse=True)
def one_thread():
    """Import it, and a module's tests run on one thread: the tensors are so small that more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_to_end(config, logdir, n_processes=1):
    """Trains until the run is over, and returns what it said."""
    log = Path(f"{logdir}.log")
    statuses = finish(start_processes(train_command, config, logdir, n_processes=n_processes, log=log))
    assert statuses == [0] * n_processes, log.read_text()
    return log.read_text()


def train_command(config, logdir, *options):
    """What `python train.py` does; exits."""
    sys.argv = ["train.py", "-c", str(config), "-l", str(logdir), *options]
    train.command()
