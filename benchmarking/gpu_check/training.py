"""Training by the real command: in each precision, with every objective, killed and resumed, in one process over NCCL and in two."""

import math
import re

import torch

from benchmarking.gpu_check.context import ROOT, TRAINING, Finding, last_line, save_config
from common.files import read_json

INFER_GRAD = {"noise_schedule": str(ROOT / "schedules" / "universal-22k-1.json"), "weight": 0.5}
ADVERSARIAL = {"windows": [512, 256], "periods": [2, 3], "channels": 8}
RUNS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "bf16, portions, activation checkpointing": {"precision": "bf16", "micro_batch_size": 1, "activation_checkpointing": True},
    "fp16, InferGrad": {"precision": "fp16", "infer_grad": INFER_GRAD},
    "bf16, InferGrad, adversarial": {"precision": "bf16", "infer_grad": INFER_GRAD | {"adversarial": ADVERSARIAL}},
}
REHEARSED = ("bf16, portions, activation checkpointing", "bf16, InferGrad, adversarial")
MEAN_OF = 10  # losses at the beginning and at the end
GRADIENT_TOLERANCE = 1e-3  # relative, of two processes to one


def _judged(result, n_steps):
    """What a training command printed, in words, and whether it is as it should be."""
    losses = [float(text) for text in re.findall(r"^step \d+  loss ([\d.]+)", result.stdout, re.M)]
    if result.returncode != 0 or len(losses) < n_steps:
        return f"status {result.returncode}, {len(losses)} steps: {last_line(result.stderr)}", False
    first, last = (sum(part) / len(part) for part in (losses[:MEAN_OF], losses[-MEAN_OF:]))
    learns = n_steps < 3 * MEAN_OF or last < first  # a rehearsal is too short for that
    return f"loss {first:.3f} to {last:.3f}", learns and math.isfinite(last)


def precisions(context):
    for name, changes in RUNS.items():
        if context.is_rehearsal and name not in REHEARSED:
            continue
        config = context.run_folder(name, changes)
        found, passed = _judged(context.command(*TRAINING, "-c", config, "-l", config.parent / "log"), context.n_steps)
        yield Finding(f"training, {name}", f"{context.n_steps} steps, a falling loss", found, passed)


def resumption(context):
    """Kills a run after its first checkpoint, and goes on."""
    config = context.run_folder("killed", {"save_every": 2})
    command = (*TRAINING, "-c", config, "-l", config.parent / "log")
    context.command(*command, until=lambda line: "saved" in line and "-00000000" not in line)
    result = context.command(*command)
    going_on = [line for line in result.stdout.splitlines() if "going on from" in line]
    passed = result.returncode == 0 and bool(going_on)
    found = last_line(going_on[0] if passed else result.stderr)
    yield Finding("training, killed and resumed", "goes on from a checkpoint", found, passed)


def one_process(context):
    """One process under torchrun, over NCCL on a GPU."""
    config = context.run_folder("one process", {"precision": "bf16"})
    found, passed = _judged(context.command(*TRAINING, "-c", config, "-l", config.parent / "log", "--", "--standalone"), context.n_steps)
    backend = "gloo" if context.is_rehearsal else "NCCL"
    yield Finding(f"training, one process over {backend}", f"{context.n_steps} steps, a falling loss", found, passed)


def two_processes(context):
    """Two processes that share the device, over gloo: their averaged gradient is that of one process."""
    for name in ("fp32", "bf16, InferGrad, adversarial"):
        config = context.run_folder(f"two {name}", RUNS[name] | {"precision": "fp32"})
        script, gradients = ("-m", "benchmarking.gpu_check.gradients", config), []
        for n_processes in (1, 2):
            output = config.parent / f"{n_processes}.pt"
            start = () if n_processes == 1 else ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
            result = context.command(*start, *script, output)
            if result.returncode != 0:
                yield Finding(f"two processes, {name}", "status 0", f"status {result.returncode}: {last_line(result.stderr)}", False)
                return
            gradients.append(torch.load(output, weights_only=True))
        difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
        expected = f"the gradient of one, within {GRADIENT_TOLERANCE:g}"
        label = name.replace("bf16, ", "")
        yield Finding(f"two processes over gloo, {label}", expected, f"{difference:.1e}", bool(difference < GRADIENT_TOLERANCE))


def out_of_memory(context):
    """A batch that fits into no memory."""
    config = context.run_folder("out of memory")
    content = read_json(ROOT / "configs" / "default.json", "a configuration")
    content["mel"] |= {"f_max": 8000.0}
    content["data"] = read_json(config, "a configuration")["data"] | {"segment_frames": 100}
    content["training"] |= {"batch_size": 4096, "n_steps": 10}
    result = context.command(*TRAINING, "-c", save_config(content, config), "-l", config.parent / "log", "--dry-run")
    passed = result.returncode == 2 and result.stderr.count("\n") == 1 and "micro_batch_size" in result.stderr
    expected = "status 2, one line that names micro_batch_size"
    yield Finding(
        "training, batch 4,096 of the default network", expected, f"status {result.returncode}: {last_line(result.stderr)}", passed
    )
