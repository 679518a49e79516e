"""Errors that PyTorch raises over the machine, not over the program, as one line."""

import re

import torch.distributed as dist

from common.errors import InputError, is_out_of_memory, shortened
from training import distributed

DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*?\) (exited unexpectedly|is killed by signal: [^.]*)")
CUT_OFF = (ConnectionResetError, EOFError)  # where a data worker dies while it hands over a batch
NO_SHARED_MEMORY = re.compile(r"shared memory|/torch_\d|<torch_\d", re.IGNORECASE)
LOST_PROCESS = re.compile(r"gloo|nccl|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


class explained_out_of_memory:
    """Turns PyTorch's out-of-memory errors into an `InputError` that names the keys to change."""

    def __init__(self, training):
        self.training = training

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
        if error is not None and is_out_of_memory(error):
            raise InputError(
                f"process {distributed.rank()}: out of memory with training.micro_batch_size "
                f"{self.training.micro_batch_size} (wanted: a smaller one, or training.activation_checkpointing)"
            ) from None


class explained_deaths:
    """Turns the death of a data worker, or of another process of the run, into an `InputError`.

    PyTorch raises the former wherever this process happens to be, for a signal tells it.
    """

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
        if not isinstance(error, (RuntimeError, *CUT_OFF)) or isinstance(error, InputError):
            return
        line = _dead_worker(error) or _lost_process(error)
        if line is not None:
            raise InputError(f"process {distributed.rank()}: {line}") from None


def _dead_worker(error):
    message = str(error)
    death = DEAD_WORKER.search(message)
    wanted = "(wanted: more memory, more shared memory in /dev/shm, or data.n_workers 0)"
    if isinstance(error, CUT_OFF):
        return f"a data worker exited unexpectedly {wanted}"
    if death:
        return f"a data worker {' '.join(death[1].split())} {wanted}"
    if NO_SHARED_MEMORY.search(message):
        return f"a data worker was given no shared memory {wanted}"
    return None


def _lost_process(error):
    """PyTorch has a class for the errors of NCCL and of finding each other, and none for those of gloo."""
    if not isinstance(error, dist.DistError) and not (dist.is_initialized() and LOST_PROCESS.search(str(error))):
        return None
    last_line = re.sub(r"\[[^\]]*\.\w+:\d+\] ", "", str(error).strip().splitlines()[0])
    return f"another process has ended or cannot be reached: {shortened(last_line, 120)}"
