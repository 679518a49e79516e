"""Whether a network computes on the device what it computes on the CPU."""

import copy

import torch

from benchmarking.gpu_check.context import ROOT, Finding
from common.audio import signal_to_noise
from common.device import autocast
from model.config import load_config
from model.network import new_network

FRAMES = 40
# Precision, whether TF32 is on, and the least signal-to-noise ratio in dB.
PRECISIONS = {
    "float32": (torch.float32, False, 90),
    "TF32": (torch.float32, True, 40),
    "bfloat16": (torch.bfloat16, False, 20),
    "float16": (torch.float16, False, 38),
}


@torch.inference_mode()
def agreement(context):
    for name in ("default", "universal-22k"):
        config = load_config(ROOT / "configs" / f"{name}.json")
        torch.manual_seed(0)
        network = new_network(config).eval()
        torch.nn.init.normal_(network.output_conv.weight, std=0.1)  # it may begin at zero
        y, mel = torch.randn(2, FRAMES * network.hop_length), torch.randn(2, config.mel.n_mels, FRAMES) - 1
        level = torch.tensor([0.3, 0.9], dtype=torch.float64)
        wanted, there = network(y, mel, level), copy.deepcopy(network).to(context.device)
        arguments = [tensor.to(context.device) for tensor in (y, mel, level)]
        for label, (dtype, tf32, least) in PRECISIONS.items():
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            with autocast(context.device, dtype):
                found = signal_to_noise(wanted, there(*arguments))
            yield Finding(f"network call, {name}, {label}", f"{least} dB or more to the CPU", f"{found:.0f} dB", found >= least)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
