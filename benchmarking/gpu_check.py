"""`benchmark.py gpu_check`: all that only a GPU can show, cheap checks first, each a line with what was expected and found.

It ends with a Markdown report, and with status 1 if a check failed. `--device cpu` rehearses it without a GPU.
"""

import copy
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import soundfile
import torch

from benchmarking.tables import device_name, markdown_table
from common.audio import signal_to_noise
from common.device import autocast, pick_device, unusable_gpus
from common.errors import InputError, one_line, positive_float, positive_int
from common.files import read_json, save_text
from common.released import CHECKPOINT, ROOT, SCHEDULE
from extensions.registry import make_network
from model.config import load_config

SECONDS_OF_A_COMMAND = 240
# Precision, whether TF32 is on, and the least signal-to-noise ratio of a network call to the CPU in dB.
PRECISIONS = {
    "float32": (torch.float32, False, 90),
    "TF32": (torch.float32, True, 40),
    "bfloat16": (torch.bfloat16, False, 20),
    "float16": (torch.float16, False, 38),
}
# Options of inference.py, and the least signal-to-noise ratio to the CPU in dB.
INFERENCES = {
    "float32": (["--dtype", "float32"], 30),
    "bfloat16": (["--dtype", "bfloat16"], 15),
    "float16": (["--dtype", "float16"], 30),
    "batches of 3, chunks of 50": (["--dtype", "float32", "--batch_size", "3", "--chunk_frames", "50"], 30),
    "GLA-Grad": (["--gla_grad", "8"], None),
    "compiled": (["--compile"], None),
}
INFER_GRAD = {"noise_schedule": str(SCHEDULE), "weight": 0.5}
ADVERSARIAL = {"windows": [512, 256], "periods": [2, 3], "channels": 8}
# Changes of the training section, and options of the command.
TRAININGS = {
    "bf16, portions, activation checkpointing": ({"precision": "bf16", "micro_batch_size": 1, "activation_checkpointing": True}, []),
    "fp32": ({"precision": "fp32"}, []),
    "fp16": ({"precision": "fp16"}, []),
    "fp16, InferGrad": ({"precision": "fp16", "infer_grad": INFER_GRAD}, []),
    "bf16, InferGrad, adversarial": ({"precision": "bf16", "infer_grad": INFER_GRAD | {"adversarial": ADVERSARIAL}}, []),
    "bf16, one process under torchrun": ({"precision": "bf16"}, ["--", "--standalone"]),
}
REHEARSED = ("bfloat16", "bf16, portions, activation checkpointing")
MEAN_OF = 10  # losses at the beginning and at the end
FEW, MANY = ["6", "2"], ["1000", "100", "50", "25", "12", "6", "2"]  # steps
WORDS = {True: "pass", False: "FAIL", None: "-"}


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


class Context(NamedTuple):
    """Where the checks run: a device, a folder for their files, and the number of steps of the trainings."""

    device: torch.device
    folder: Path
    n_steps: int

    @property
    def is_rehearsal(self):
        return self.device.type == "cpu"

    def some(self, cases):
        """All cases on a GPU, in a rehearsal a few."""
        return {name: case for name, case in cases.items() if name in REHEARSED} if self.is_rehearsal else cases

    def command(self, *parts):
        """Runs Python in the repository with these arguments; returns a `subprocess.CompletedProcess` with text."""
        card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "" if self.is_rehearsal else card}
        command = [sys.executable, *map(str, parts)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS_OF_A_COMMAND)

    def run_folder(self, name, training):
        """A folder with four short recordings and the configuration of a small network; returns the path of the configuration."""
        folder = self.folder / re.sub(r"\W+", "-", name)
        folder.mkdir(parents=True, exist_ok=True)
        config = read_json(ROOT / "configs" / "small-16k.json", "a configuration")
        time_of, rate = np.arange(2 * config["mel"]["sample_rate"]), config["mel"]["sample_rate"]
        for seed in range(4):
            voice = (
                sum(np.sin(2 * np.pi * (110 + 20 * seed) * k * time_of / rate) / k for k in range(1, 20)) * np.sin(3 * time_of / rate) ** 2
            )
            soundfile.write(folder / f"{seed}.wav", 0.1 * voice, rate)
        save_text("0.wav\n1.wav\n2.wav\n", folder / "train.txt")
        save_text("3.wav\n", folder / "validation.txt")
        config["data"] = {"train_filelist": "train.txt", "validation_filelist": "validation.txt", "segment_frames": 32, "n_workers": 0}
        n = self.n_steps
        config["training"] |= {"batch_size": 4, "n_steps": n, "warmup_steps": 5, "log_every": 1, "n_previews": 1, "validate_every": n}
        config["training"] |= {"save_every": max(n // 2, 1), "infer_grad": None, "stages": None} | training
        save_text(json.dumps(config), folder / "config.json")
        return folder / "config.json"


def last_line(text):
    return (text.strip().splitlines() or [""])[-1][-200:]


def environment(context):
    """Driver, cards and what PyTorch was built for."""
    n_gpus, problem = torch.cuda.device_count(), unusable_gpus()
    yield Finding("PyTorch", "", f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    yield Finding("driver and architecture", "every GPU usable", problem or f"{n_gpus} GPUs", problem is None)


@torch.inference_mode()
def agreement(context):
    """Whether a network computes on the device what it computes on the CPU."""
    for name, (label, (dtype, tf32, least)) in itertools.product(("default", "universal-22k"), PRECISIONS.items()):
        config = load_config(ROOT / "configs" / f"{name}.json")
        torch.manual_seed(0)
        network = make_network(config).eval()
        torch.nn.init.normal_(network.output_conv.weight, std=0.1)  # it may begin at zero
        arguments = torch.randn(2, 40 * network.hop_length), torch.randn(2, config.mel.n_mels, 40) - 1, torch.tensor([0.3, 0.9]).double()
        expected, network = network(*arguments), copy.deepcopy(network).to(context.device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with autocast(context.device, dtype):
            found = signal_to_noise(expected, network(*(tensor.to(context.device) for tensor in arguments)))
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        yield Finding(f"network call, {name}, {label}", f"{least} dB or more to the CPU", f"{found:.0f} dB", found >= least)


def inference(context):
    """`inference.py` in each precision, in batches and chunks, with GLA-Grad and compiled, beside the CPU."""
    mels = sorted((ROOT / "generated_samples" / "voices").glob("*.npy"))[: 1 if context.is_rehearsal else 3]
    save_text("".join(f"{mel}\n" for mel in mels), context.folder / "mels.txt")
    command = ["inference.py", "-ch", CHECKPOINT, "-ns", SCHEDULE, "-m", context.folder / "mels.txt"]
    reference = context.folder / "reference"
    context.command(*command, "--device", "cpu", "--dtype", "float32", "-o", reference)
    for name, (options, least) in context.some(INFERENCES).items():
        output = context.folder / re.sub(r"\W+", "-", name)
        result = context.command(*command, "--device", context.device.type, *options, "-o", output)
        found, passed = last_line(result.stdout if result.returncode == 0 else result.stderr), result.returncode == 0
        if passed and least is not None:
            pairs = (
                [torch.from_numpy(soundfile.read(folder / path.name)[0]) for folder in (reference, output)] for path in output.glob("*.wav")
            )
            ratio = min(signal_to_noise(*pair) for pair in pairs)
            found, passed = f"{ratio:.0f} dB; {found}", ratio >= least
        expected = "status 0" if least is None else f"{least} dB or more to the CPU"
        yield Finding(f"inference.py, {name}", expected, found, passed)


def judged(result, n_steps):
    """What a training command printed, in words, and whether it is as it should be."""
    losses = [float(text) for text in re.findall(r"^step \d+  loss ([\d.]+)", result.stdout, re.M)]
    if result.returncode != 0 or len(losses) < n_steps:
        return f"status {result.returncode}, {len(losses)} steps: {last_line(result.stderr)}", False
    first, last = (sum(part) / len(part) for part in (losses[:MEAN_OF], losses[-MEAN_OF:]))
    learns = n_steps < 3 * MEAN_OF or last < first  # a rehearsal is too short for that
    return f"loss {first:.3f} to {last:.3f}", learns and math.isfinite(last)


def training(context):
    """Training by the real command: in each precision, with every objective, resumed, and over NCCL."""
    for name, (changes, options) in context.some(TRAININGS).items():
        command = ["train.py", "-c", context.run_folder(name, changes), "-l", context.folder / re.sub(r"\W+", "-", name) / "log"]
        if options:
            command = ["-m", "training.launch", *command[1:], *options]
        found, passed = judged(context.command(*command), context.n_steps)
        yield Finding(f"training, {name}", f"{context.n_steps} steps, a falling loss", found, passed)
    last = sorted((context.folder / re.sub(r"\W+", "-", name) / "log").glob("checkpoint-*.pt"))[-1]
    last.unlink()
    result = context.command(*command)
    yield Finding("training, resumed", "goes on from a checkpoint", last_line(result.stdout), "going on from" in result.stdout)


def factors(context):
    """Real-time factors by `benchmark.py rtf`."""
    save_text(f"{context.run_folder('recordings', {}).parent / '0.wav'}\n", context.folder / "rtf.txt")
    variants = ["float32"] if context.is_rehearsal else ["float32", "bfloat16", "float16"]
    options = ["--filelist", context.folder / "rtf.txt", "--repeats", "1", "--seconds", "2", "-o", context.folder / "rtf.json"]
    for network in ("universal-22k",) if context.is_rehearsal else ("default", "universal-22k"):
        steps = FEW if context.is_rehearsal else MANY
        result = context.command(
            "benchmark.py", "rtf", "-c", f"configs/{network}.json", *options, "--steps", *steps, "--variants", *variants
        )
        if result.returncode != 0:
            yield Finding(f"real-time factor, {network}", "status 0", last_line(result.stderr), False)
            continue
        for case in read_json(context.folder / "rtf.json", "real-time factors")["results"]:
            yield Finding(f"real-time factor, {case['case']} steps", "", f"{case['real_time_factor']:.4f}")


CHECKS = {check.__name__: check for check in (environment, agreement, inference, training, factors)}


def add_arguments(parser):
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--steps", type=positive_int, default=60, help="of each training (default: %(default)s)")
    parser.add_argument("--minutes", type=positive_float, default=10, help="after which no further check begins (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/gpu_check.md"), help="the report (default: %(default)s)")


def findings_of(name, context):
    """Yields the findings of a check; what it raises is one too."""
    try:
        yield from CHECKS[name](context)
    except Exception as error:  # one check must not end the others
        yield Finding(name, "a result", f"{type(error).__name__}: {one_line(error)}", False)


def run(arguments):
    device = pick_device(arguments.device)
    if str(device) not in ("cuda", "cpu"):
        raise InputError(f"--device {arguments.device} (wanted: cuda, or cpu for a rehearsal; CUDA_VISIBLE_DEVICES chooses the card)")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        context = Context(device, Path(folder), arguments.steps)
        for name in arguments.only or CHECKS:
            if time.monotonic() - began > 60 * arguments.minutes:
                findings = [Finding(name, "a result", f"not begun after {arguments.minutes:g} minutes", False)]
            else:
                findings = findings_of(name, context)
            for finding in findings:
                rows.append([finding.what, finding.expected, finding.found, WORDS[finding.passed], f"{time.monotonic() - began:.0f}"])
                print(f"[{rows[-1][-1]} s] {WORDS[finding.passed]}  {finding.what}: {finding.found}", flush=True)
    results = [row[3] for row in rows]
    text = f"{device_name(device)}: {results.count('pass')} passed, {results.count('FAIL')} failed\n\n"
    save_text(text + markdown_table(["what", "expected", "found", "", "after seconds"], rows), arguments.output)
    print(f"{text.strip()}; {arguments.output}")
    return int("FAIL" in results)
