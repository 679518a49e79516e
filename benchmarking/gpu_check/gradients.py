"""Writes the gradient of one training step: `python -m benchmarking.gpu_check.gradients CONFIG OUTPUT`, alone or under torchrun.

Processes of torchrun share the device, over gloo: NCCL takes one process for each GPU.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from common.device import exact_float32
from common.files import save_atomically
from common.jobs import under_torchrun
from model.config import load_config
from training.trainer import Trainer


def main(config, output):
    exact_float32()
    if under_torchrun():
        dist.init_process_group("gloo")
    trainer = Trainer(load_config(config), Path(config).parent)
    trainer.train_step(next(trainer.batches()))
    gradient = torch.cat([parameter.grad.float().cpu().flatten() for parameter in trainer.network.parameters()])
    if trainer.rank == 0:
        save_atomically(lambda temporary: torch.save(gradient, temporary), Path(output))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
