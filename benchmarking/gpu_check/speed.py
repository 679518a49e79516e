"""Memory and time of the default network's training, and real-time factors on the device beside the CPU."""

import json
from pathlib import Path

import torch

from benchmarking.gpu_check.context import ROOT, Finding, last_line
from benchmarking.training import CLAIM_BATCH, CLAIM_BYTES, PresentTrainer
from common.device import synchronized_time
from common.files import save_text
from model.config import load_config

STEPS = ["1000", "100", "50", "25", "12", "6", "2"]
FEW_STEPS = ["6", "2"]  # on a CPU
CASES = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "fp32, checkpointing": {"precision": "fp32", "activation_checkpointing": True},
}


def memory(context):
    """A batch of 96 of the default network on a GPU that gives 12 GB."""
    config = load_config(ROOT / "configs" / "default.json")
    batch_size, n_steps = (2, 1) if context.is_rehearsal else (CLAIM_BATCH, 10)
    if not context.is_rehearsal:
        whole = torch.cuda.get_device_properties(context.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CLAIM_BYTES / whole))
    for name, changes in CASES.items():
        if context.is_rehearsal and name != "bf16":
            continue
        what, expected = f"training step, default, batch {batch_size}, {name}", f"within {CLAIM_BYTES / 1e9:.0f} GB"
        training = config.training.model_copy(update={"batch_size": batch_size, "micro_batch_size": None} | changes)
        try:
            trainer = PresentTrainer(config.model_copy(update={"training": training}), Path())
            batch = next(trainer.batches())
            for _ in range(3 if not context.is_rehearsal else 1):
                trainer.train_step(batch)
            start = synchronized_time(context.device)
            for _ in range(n_steps):
                trainer.train_step(batch)
            seconds = (synchronized_time(context.device) - start) / n_steps
            reserved = 0 if context.is_rehearsal else torch.cuda.max_memory_reserved()
            found = f"{seconds:.3f} s, {batch_size / seconds:.0f} segments/s, {reserved / 1e9:.1f} GB"
            yield Finding(what, expected, found, None if context.is_rehearsal else reserved <= CLAIM_BYTES)
        except torch.OutOfMemoryError as error:
            yield Finding(what, expected, last_line(str(error)), False)
        trainer = batch = None
        if not context.is_rehearsal:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    if not context.is_rehearsal:
        torch.cuda.set_per_process_memory_fraction(1.0)


def factors(context):
    """Real-time factors by `benchmark.py rtf`: a line for each network, device and precision."""
    recording = context.run_folder("recordings").parent / "0.wav"
    filelist = context.folder / "rtf.txt"
    save_text(f"{recording}\n", filelist)
    for network in ("universal-22k",) if context.is_rehearsal else ("default", "universal-22k"):
        places = [] if context.is_rehearsal else [("GPU", STEPS, ["float32", "bfloat16", "float16"], {})]
        places.append(("CPU", FEW_STEPS, ["float32"], {"CUDA_VISIBLE_DEVICES": ""}))
        for place, steps, variants, variables in places:
            output = context.folder / f"rtf-{network}-{place}.json"
            options = ["--filelist", filelist, "--repeats", "1", "--seconds", "2", "--steps", *steps, "--variants", *variants, "-o", output]
            result = context.command("benchmark.py", "rtf", "-c", f"configs/{network}.json", *options, **variables)
            if result.returncode != 0:
                yield Finding(f"real-time factor, {network}, {place}", "status 0", last_line(result.stderr), False)
                continue
            of_variants = {}
            for case in json.loads(output.read_text())["results"]:
                of_variants.setdefault(case["variant"], []).append(f"{case['real_time_factor']:.4f} ({case['steps']})")
            for variant, found in of_variants.items():
                yield Finding(f"real-time factor (steps), {network}, {place}, {variant}", "", ", ".join(found))
