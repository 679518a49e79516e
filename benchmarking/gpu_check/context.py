"""What the checks share: where they run, how they start commands, and what they find."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import soundfile
import torch

from common.device import unusable_gpus
from common.files import read_json, save_text

ROOT = Path(__file__).parent.parent.parent
SECONDS_OF_A_COMMAND = 240
TRAINING = ("-m", "training.launch")


class Finding(NamedTuple):
    """One line of the report.

    Args:
        what: was checked.
        expected, found: in words.
        passed: None where there is a figure, and nothing to judge.
    """

    what: str
    expected: str
    found: str
    passed: Optional[bool] = None


class Context:
    """Where the checks run.

    Args:
        device: the `torch.device`; a CPU is a rehearsal, with less of everything.
        folder: for their files.
        n_steps: of the trainings.
    """

    def __init__(self, device, folder, n_steps):
        self.device, self.folder, self.n_steps = device, Path(folder), n_steps
        self.is_rehearsal = device.type == "cpu"

    def command(self, *parts, until=None, **variables):
        """Runs Python in the repository with these arguments; kills it, and all that it started, when it takes too long.

        Args:
            until: kill it too when this is true of a line that it prints; errors are printed then.
            variables: of the environment, beside its own.

        Returns:
            a `subprocess.CompletedProcess` with text.
        """
        card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "" if self.is_rehearsal else card} | variables
        command = [sys.executable, *map(str, parts)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if until else subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams) as process:
            timer = threading.Timer(SECONDS_OF_A_COMMAND, _kill, [process])
            timer.start()
            try:
                if until:
                    next(filter(until, process.stdout), None)
                    _kill(process)
                output, errors = process.communicate()
            finally:
                timer.cancel()
                _kill(process)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def run_folder(self, name, training=None):
        """A folder with four short recordings and the configuration of a small network; returns the path of the configuration.

        Args:
            training: keys of that section, beside the usual ones.
        """
        folder = self.folder / re.sub(r"\W+", "-", name)
        folder.mkdir(parents=True, exist_ok=True)
        config = read_json(ROOT / "configs" / "probes" / "polyphase-8.json", "a configuration")
        for part, seeds in (("train", (0, 1, 2)), ("validation", (3,))):
            for seed in seeds:
                soundfile.write(folder / f"{seed}.wav", _hum(seed, config["mel"]["sample_rate"]), config["mel"]["sample_rate"])
            save_text("".join(f"{seed}.wav\n" for seed in seeds), folder / f"{part}.txt")
        config["data"] = {"train_filelist": "train.txt", "validation_filelist": "validation.txt", "segment_frames": 32, "n_workers": 0}
        usual = {"batch_size": 4, "n_steps": self.n_steps, "warmup_steps": 5, "log_every": 1, "n_previews": 1, "precision": "fp32"}
        config["training"] |= usual | {"validate_every": self.n_steps, "save_every": self.n_steps} | (training or {})
        return save_config(config, folder / "config.json")


def _kill(process):
    """Ends a process and all that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:  # Windows
        process.kill()


def save_config(config, path):
    """Writes a configuration, and returns its path."""
    save_text(json.dumps(config), path)
    return path


def _hum(seed, sample_rate, seconds=2.0):
    """A voiced sound of a changing pitch, `[T]`."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(110 + 20 * seed + 20 * np.sin(2 * np.pi * time)) / sample_rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 20)) * np.sin(3 * time) ** 2 + 0.002 * noise).astype(np.float32)


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1][-200:] if lines else ""


def environment(context):
    """Driver, cards and what PyTorch was built for."""
    n_gpus, usable = torch.cuda.device_count(), torch.cuda.is_available()
    built_for = f"torch {torch.__version__}, CUDA {torch.version.cuda}, {' '.join(torch.cuda.get_arch_list()) or 'no GPU code'}"
    yield Finding("PyTorch", "", built_for)
    yield Finding(
        "driver", "as many GPUs usable as are there", f"{n_gpus} there, {'usable' if usable else 'none usable'}", usable == (n_gpus > 0)
    )
    problem = unusable_gpus()
    yield Finding("architecture", "this PyTorch has code for every GPU", problem or "it has", problem is None)
    if not context.is_rehearsal:
        for number in range(n_gpus):
            card = torch.cuda.get_device_properties(number)
            yield Finding(f"cuda:{number}", "", f"{card.name}, sm_{card.major}{card.minor}, {card.total_memory / 2**30:.0f} GiB")
