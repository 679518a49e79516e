"""A run so small that it trains in seconds: the tiny configuration, and three seconds of synthetic speech."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import train
from common.audio import read_audio
from datasets import read_filelist
from model.config import load_config
from model.mel import LogMelSpectrogram
from tests.conftest import tiny_config_values
from tests.processes import run_processes
from tests.synthetic_speech import synthetic_speech
from training.trainer import Trainer

SAMPLE_RATE = tiny_config_values()["mel"]["sample_rate"]


def speech(seconds, seed):
    """One of several recordings, `[T]` float32; each has a pitch of its own."""
    return synthetic_speech(seconds, SAMPLE_RATE, 100.0 + 5 * seed, seed).numpy()


def write_corpus(folder, recordings, name="train"):
    """Writes recordings (name -> `[T]`) as WAV files with a filelist; returns the filelist's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, audio in recordings.items():
        soundfile.write(folder / f"{stem}.wav", audio, SAMPLE_RATE)
    filelist = folder / f"{name}.txt"
    filelist.write_text("".join(f"{stem}.wav\n" for stem in recordings))
    return filelist


def write_run(folder, **changes):
    """Writes a corpus, a schedule `3.json` and a configuration; `changes` are keys of `training`, or of others as data__n_workers=1.

    Returns:
        path of the configuration.
    """
    if not (folder / "train.txt").exists():
        write_corpus(folder, {f"train_{i}": speech(0.3, i) for i in range(6)})
        write_corpus(folder, {f"validation_{i}": speech(0.6, 10 + i) for i in range(2)}, "validation")
    config = tiny_config_values()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        config.setdefault(section or "training", {})[name] = value
    (folder / "3.json").write_text('{"betas": [0.001, 0.05, 0.6]}')
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def write_pairs(folder, name="train", change=lambda mel: mel):
    """Turns a list of recordings into one of pairs, with `change(mel)` of their mels; returns the configuration."""
    config = load_config(folder / "config.json")
    mel = LogMelSpectrogram(config.mel)
    lines = []
    for path in read_filelist(folder / f"{name}.txt"):
        np.save(path.with_suffix(".npy"), change(mel(read_audio(path, config.mel.sample_rate))).numpy())
        lines.append(f"{path.name}|{path.stem}.npy|what is said\n")
    (folder / f"{name}.txt").write_text("".join(lines))
    return config


def new_trainer(config):
    """The `Trainer` of a configuration file."""
    return Trainer(load_config(config), config.parent)


def first_batch(trainer):
    return next(iter(trainer.batches()))


def train_steps(trainer, n_steps):
    """Makes steps of the present stage; returns the `StepResult` of each."""
    return [trainer.train_step(batch) for _, batch in zip(range(n_steps), trainer.batches())]


def weights_of(path):
    """The training state in a checkpoint without what may differ: versions and the configuration."""
    state = torch.load(path, weights_only=True)
    return {key: value for key, value in state.items() if key not in ("versions", "config")}


def last_step(logdir):
    """The step of the newest checkpoint in a folder, or -1."""
    return max((int(path.stem[-8:]) for path in logdir.glob("checkpoint-*.pt")), default=-1)


def same(a, b):
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Import it, and a module's tests run on one thread: the tensors are so small that more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_here(config, logdir, **options):
    """Trains in this process; returns the exit status and what was said. Options and errors: see `train.train`."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = train.train(load_config(config), Path(config).parent, logdir, **options)
    return status, said.getvalue()


def train_to_end(config, logdir, n_processes=1):
    """Trains until the run is over, and returns what it said; several processes beside this one, or one here."""
    if n_processes == 1:
        status, said = train_here(config, logdir)
        assert status == 0, said
        return said
    statuses, said = run_processes(train_command, config, logdir, n_processes=n_processes)
    assert statuses == [0] * n_processes, said
    return said


def train_command(config, logdir, *options):
    """What `python train.py` does; exits."""
    sys.argv = ["train.py", "-c", str(config), "-l", str(logdir), *options]
    train.command()
