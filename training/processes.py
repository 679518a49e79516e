"""The processes of one training run: thin words for torch.distributed that also hold for a single process."""

import contextlib
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from model.errors import InputError, describe

COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # longer than a validation or a save, during which others wait


def start():
    """Joins the other processes if torchrun started this one: NCCL between GPUs, gloo between CPUs.

    Raises:
        InputError: more processes than GPUs.
    """
    if "RANK" not in os.environ:
        return
    if torch.cuda.is_available():
        local_rank, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= n_gpus:
            raise InputError(f"process {local_rank} of this machine has no GPU (wanted: at most {n_gpus} processes)")
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)


def end():
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def without_teardown():
    """Ends a process of several where its body raises SystemExit, without the interpreter's teardown.

    All is saved and closed by then, and in the teardown gloo now and then aborts the process ("terminate called without an
    active exception").
    """
    try:
        yield
    except SystemExit as end_of_command:
        if "RANK" not in os.environ:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end_of_command.code or 0)


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def device():
    """The device of this process."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def total(tensor):
    """Sum of a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_process(flag):
    """Whether `flag` holds on any process."""
    return bool(total(torch.tensor(float(flag), device=device())).item())


def collect(item):
    """The items of all processes, in a list."""
    items = [item] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(items, item)
    return items


def from_first(item):
    """The first process's item, on every process."""
    items = [item]
    if dist.is_initialized():
        dist.broadcast_object_list(items, src=0)
    return items[0]


def agree(action):
    """Calls `action` on every process and returns its result; where it finds bad input on one, all of them end.

    Only the first process that fails explains itself, so that the reader sees one line.

    Raises:
        InputError, OSError: raised by `action` on this process, the first to fail.
        SystemExit: status 2, where another process explains.
    """
    result = error = None
    try:
        result = action()
    except (InputError, OSError) as caught:
        error = caught
    failed = [other is not None for other in collect(error and describe(error))]
    if any(failed):
        raise error if failed.index(True) == rank() else SystemExit(2)
    return result
