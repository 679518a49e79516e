"""A run so small that it trains in seconds: two seconds of tones and noise, a network of a few hundred weights."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import train  # noqa: E402

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


def start(arguments, script="training/launch.py", variables=None, **options):
    """Starts the real script in a session of its own, on one thread of the CPU; returns the process."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # also where the tests run under nohup
        **options,
    )


def run(arguments, script="training/launch.py", timeout=300, **options):
    """Runs the real script to its end; returns status, output and error output."""
    process = start(arguments, script, **options)
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


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


# Training processes are forked off a server that has imported everything once, torch._dynamo too, which optimisers
# import: a start takes milliseconds, not seconds.
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["train", "torch._dynamo", "training_fixtures"])


@pytest.fixture(autouse=True)
def one_thread():
    """Import it, and a module's tests run on one thread: the tensors are so small that more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_processes(target, *arguments, n_processes=1, log=os.devnull):
    """Starts `target(*arguments)` in processes that find each other as torchrun's would; their output goes to `log`."""
    port = str(free_port())
    processes = []
    for rank in range(n_processes):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes)}
        variables.update(MASTER_ADDR="localhost", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test")
        variables = variables if n_processes > 1 else {}
        processes.append(_FORKSERVER.Process(target=_in_process, args=(variables, str(log), target, arguments)))
        processes[-1].start()
    return processes


def finish(processes, timeout=300):
    """Waits for processes and returns their exit statuses."""
    for process in processes:
        process.join(timeout)
        assert process.exitcode is not None, "a process hangs"
    return [process.exitcode for process in processes]


def train_to_end(config, logdir, n_processes=1):
    """Trains until the run is over, and returns what it said."""
    log = Path(f"{logdir}.log")
    statuses = finish(start_processes(train_command, config, logdir, n_processes=n_processes, log=log))
    assert statuses == [0] * n_processes, log.read_text()
    return log.read_text()


def kill(processes):
    """SIGKILL, and wait."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def children(pid):
    """Process ids of a process's children."""
    return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]


def train_command(config, logdir, *options):
    """What `python train.py` does; exits."""
    sys.argv = ["train.py", "-c", str(config), "-l", str(logdir), *options]
    train.command()


def _in_process(variables, log, target, arguments):
    os.environ.update(variables, CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    target(*arguments)


def wait_for(condition, timeout=300):
    """Polls until `condition()` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
