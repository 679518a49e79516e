"""`inference.py` in each precision, in batches and chunks, without a prior, with GLA-Grad and compiled."""

import shutil

import soundfile
import torch

from benchmarking.gpu_check.context import ROOT, Finding, last_line
from common.audio import signal_to_noise
from common.files import save_text
from common.released import CHECKPOINT, SCHEDULE
from model.checkpoint import save_weights
from model.config import load_config
from model.network import new_network

N_MELS = 3


def _inputs(context):
    """A list of mels of the repository."""
    mels = sorted((ROOT / "generated_samples" / "voices").glob("*.npy"))[: 1 if context.is_rehearsal else N_MELS]
    save_text("".join(f"{mel}\n" for mel in mels), context.folder / "mels.txt")
    return context.folder / "mels.txt"


def _without_prior(context):
    """Arguments for a random default network and a mel for it."""
    config = load_config(ROOT / "configs" / "default.json")
    torch.manual_seed(0)
    save_weights(new_network(config), config, context.folder / "default.safetensors")
    torch.save(torch.randn(config.mel.n_mels, 100) - 3, context.folder / "mel.pt")
    return ["-ch", context.folder / "default.safetensors", "-ns", "schedules/wg-6.json", "-m", context.folder / "mel.pt"]


def inference(context):
    device = ["--device", context.device.type]
    released = ["-ch", CHECKPOINT, "-ns", SCHEDULE, "-m", _inputs(context)]
    cases = {  # options, and the least signal-to-noise ratio to the CPU in dB
        "on the CPU, float32": (["--device", "cpu", "--dtype", "float32", *released], None),
        "float32": ([*device, "--dtype", "float32", *released], 30),
        "bfloat16": ([*device, "--dtype", "bfloat16", *released], 15),
        "float16": ([*device, "--dtype", "float16", *released], 30),
        "batches of 3, chunks of 50": ([*device, "--dtype", "float32", "--batch_size", "3", "--chunk_frames", "50", *released], 30),
        "GLA-Grad": ([*device, "--gla_grad", "8", *released], None),
        "without a prior": ([*device, *_without_prior(context)], None),
        "compiled": ([*device, "--compile", *released], None),
    }
    if context.is_rehearsal:
        cases = {name: cases[name] for name in ("on the CPU, float32", "bfloat16", "without a prior")}
    for name, (options, least) in cases.items():
        output = context.folder / "output" / name.replace(", ", "-").replace(" ", "-")
        result = context.command("inference.py", *options, "-o", output)
        text = last_line(result.stdout if result.returncode == 0 else result.stderr)
        if result.returncode != 0 or least is None:
            yield Finding(f"inference.py, {name}", "status 0", f"status {result.returncode}: {text}", result.returncode == 0)
            continue
        reference = context.folder / "output" / "on-the-CPU-float32"
        pairs = [
            [torch.from_numpy(soundfile.read(folder / path.name)[0]) for folder in (reference, output)] for path in output.glob("*.wav")
        ]
        found = min(signal_to_noise(*pair) for pair in pairs)
        yield Finding(f"inference.py, {name}", f"{least} dB or more to the CPU", f"{found:.0f} dB; {text}", found >= least)
    shutil.rmtree(context.folder / "output")
