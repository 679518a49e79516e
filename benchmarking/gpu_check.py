"""`benchmark.py gpu_check`: what only a GPU can show, cheap checks first, each a line with what was expected and found.

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

import numpy as np
import soundfile
import torch

from benchmarking.tables import device_name, markdown_table
from common.audio import signal_to_noise
from common.device import autocast, pick_device
from common.errors import InputError, one_line, positive_float, positive_int
from common.files import read_json, save_text
from common.released import CHECKPOINT, ROOT, SCHEDULE
from extensions.registry import make_network
from model.config import load_config

SECONDS_OF_A_COMMAND = 240
# Precision, and the least signal-to-noise ratio of a network call to the CPU in dB.
PRECISIONS = {"float32": (torch.float32, 90), "bfloat16": (torch.bfloat16, 20), "float16": (torch.float16, 38)}
# Options of inference.py, and the least signal-to-noise ratio of a waveform to the CPU's in dB.
INFERENCES = {
    "bfloat16": (["--dtype", "bfloat16"], 15),
    "float16": (["--dtype", "float16"], 30),
    "float32, batches of 3, chunks of 50": (["--dtype", "float32", "--batch_size", "3", "--chunk_frames", "50"], 30),
    "GLA-Grad": (["--gla_grad", "8"], None),
    "compiled": (["--compile"], None),
}
INFER_GRAD = {"noise_schedule": str(SCHEDULE), "weight": 0.5}
ADVERSARIAL = {"windows": [512, 256], "periods": [2, 3], "channels": 8}
TRAININGS = {  # changes of the training section
    "bf16, portions": {"precision": "bf16", "micro_batch_size": 1, "activation_checkpointing": True},
    "fp32": {"precision": "fp32"},
    "fp16, InferGrad": {"precision": "fp16", "infer_grad": INFER_GRAD},
    "bf16, InferGrad, adversarial": {"precision": "bf16", "infer_grad": INFER_GRAD | {"adversarial": ADVERSARIAL}},
}
REHEARSED = ("bfloat16", "bf16, portions")
MEAN_OF = 10  # losses at the beginning and at the end


def some(cases, device):
    """All cases on a GPU, in a rehearsal a few."""
    return {name: case for name, case in cases.items() if name in REHEARSED} if device.type == "cpu" else cases


def command(device, *parts):
    """Runs Python in the repository with these arguments; returns a `subprocess.CompletedProcess` with text."""
    card = "" if device.type == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": card}
    parts = [sys.executable, *map(str, parts)]
    return subprocess.run(parts, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS_OF_A_COMMAND)


def last_line(result):
    return ((result.stderr if result.returncode else result.stdout).strip().splitlines() or [""])[-1][-200:]


@torch.inference_mode()
def network(device, folder, n_steps):
    """Yields what was checked, expected and found, and whether it is as expected: here, calls of a network beside the CPU."""
    for name, (label, (dtype, least)) in itertools.product(("default", "universal-22k"), PRECISIONS.items()):
        config = load_config(ROOT / "configs" / f"{name}.json")
        torch.manual_seed(0)
        model = make_network(config).eval()
        torch.nn.init.normal_(model.output_conv.weight, std=0.1)  # it may begin at zero
        arguments = torch.randn(2, 40 * model.hop_length), torch.randn(2, config.mel.n_mels, 40) - 1, torch.tensor([0.3, 0.9]).double()
        expected, model = model(*arguments), copy.deepcopy(model).to(device)
        with autocast(device, dtype):
            found = signal_to_noise(expected, model(*(tensor.to(device) for tensor in arguments)))
        yield f"network call, {name}, {label}", f"{least} dB or more to the CPU", f"{found:.0f} dB", found >= least


def inference(device, folder, n_steps):
    """`inference.py` beside itself on the CPU."""
    mels = sorted((ROOT / "generated_samples" / "voices").glob("*.npy"))[: 1 if device.type == "cpu" else 3]
    save_text("".join(f"{mel}\n" for mel in mels), folder / "mels.txt")
    common = ["inference.py", "-ch", CHECKPOINT, "-ns", SCHEDULE, "-m", folder / "mels.txt"]
    command(device, *common, "--device", "cpu", "--dtype", "float32", "-o", folder / "reference")
    for number, (name, (options, least)) in enumerate(some(INFERENCES, device).items()):
        result = command(device, *common, "--device", device.type, *options, "-o", folder / str(number))
        found, passed = last_line(result), result.returncode == 0
        if passed and least is not None:
            waveforms = {path.name: torch.from_numpy(soundfile.read(path)[0]) for path in (folder / str(number)).glob("*.wav")}
            references = {name: torch.from_numpy(soundfile.read(folder / "reference" / name)[0]) for name in waveforms}
            ratio = min(signal_to_noise(references[name], waveforms[name]) for name in waveforms)
            found, passed = f"{ratio:.0f} dB; {found}", ratio >= least
        yield f"inference.py, {name}", f"{least} dB or more to the CPU" if least else "status 0", found, passed


def run_folder(folder, n_steps, training):
    """A folder with short recordings and the configuration of a small network; returns the path of the configuration."""
    folder.mkdir()
    config = read_json(ROOT / "configs" / "small-16k.json", "a configuration")
    rate = config["mel"]["sample_rate"]
    seconds = np.arange(2 * rate) / rate
    for name in ("train", "validation"):
        voice = sum(np.sin(2 * np.pi * (110 + 20 * len(name)) * k * seconds) / k for k in range(1, 20)) * np.sin(3 * seconds) ** 2
        soundfile.write(folder / f"{name}.wav", 0.1 * voice, rate)
        save_text(f"{name}.wav\n", folder / f"{name}.txt")
    config["data"] = {"train_filelist": "train.txt", "validation_filelist": "validation.txt", "segment_frames": 32, "n_workers": 0}
    network = config["network"]  # a smaller one
    for part, channels in (("upsampling", 24), ("downsampling", 12)):
        network[f"{part}_preconv_channels"] = channels
        network[f"{part}_channels"] = [channels] * len(network[f"{part}_channels"])
    config["training"] |= {"batch_size": 4, "n_steps": n_steps, "warmup_steps": 5, "log_every": 1, "n_previews": 1, "stages": None}
    config["training"] |= {"validate_every": n_steps, "save_every": max(n_steps // 2, 1), "infer_grad": None} | training
    save_text(json.dumps(config), folder / "config.json")
    return folder / "config.json"


def judged(result, n_steps):
    """What a training command printed, in words, and whether it is as it should be."""
    losses = [float(text) for text in re.findall(r"^step \d+  loss ([\d.]+)", result.stdout, re.M)]
    if result.returncode != 0 or len(losses) < n_steps:
        return f"status {result.returncode}, {len(losses)} steps: {last_line(result)}", False
    first, last = (sum(part) / len(part) for part in (losses[:MEAN_OF], losses[-MEAN_OF:]))
    learns = n_steps < 3 * MEAN_OF or last < first  # a rehearsal is too short for that
    return f"loss {first:.3f} to {last:.3f}", learns and math.isfinite(last)


def training(device, folder, n_steps):
    """Training by the real command, in each precision and with every objective; and one resumed."""
    for number, (name, changes) in enumerate(some(TRAININGS, device).items()):
        log = folder / f"log-{number}"
        parts = ["train.py", "-c", run_folder(folder / f"run-{number}", n_steps, changes), "-l", log]
        yield f"training, {name}", f"{n_steps} steps, a falling loss", *judged(command(device, *parts), n_steps)
    max(log.glob("checkpoint-*.pt")).unlink()
    result = command(device, *parts)
    yield "training, resumed", "goes on from a checkpoint", last_line(result), "going on from" in result.stdout


CHECKS = {check.__name__: check for check in (network, inference, training)}


def add_arguments(parser):
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--steps", type=positive_int, default=60, help="of each training (default: %(default)s)")
    parser.add_argument("--minutes", type=positive_float, default=10, help="after which no further check begins (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/gpu_check.md"), help="the report (default: %(default)s)")


def run(arguments):
    device = pick_device(arguments.device)
    if str(device) not in ("cuda", "cpu"):
        raise InputError(f"--device {arguments.device} (expected: cuda, or cpu for a rehearsal; CUDA_VISIBLE_DEVICES chooses the card)")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    began, rows = time.monotonic(), []

    def note(what, expected, found, passed):
        rows.append([what, expected, found, "pass" if passed else "FAIL", f"{time.monotonic() - began:.0f}"])
        print(f"[{rows[-1][-1]} s] {rows[-1][3]}  {what}: {found}", flush=True)

    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        for name in arguments.only or CHECKS:
            try:
                if time.monotonic() - began > 60 * arguments.minutes:
                    raise TimeoutError(f"not begun after {arguments.minutes:g} minutes")
                for finding in CHECKS[name](device, Path(folder), arguments.steps):
                    note(*finding)
            except Exception as error:  # one check must not end the others
                note(name, "a result", f"{type(error).__name__}: {one_line(error)}", False)
    n_failed = sum(row[3] == "FAIL" for row in rows)
    summary = f"{device_name(device)}: {len(rows) - n_failed} passed, {n_failed} failed"
    save_text(f"{summary}\n\n{markdown_table(['what', 'expected', 'found', '', 'after seconds'], rows)}", arguments.output)
    print(f"{summary}; {arguments.output}")
    return int(n_failed > 0)
