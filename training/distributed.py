"""The processes of one training run: thin words for torch.distributed that also hold for a single process."""

import contextlib
import os
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

from common.device import pick_device
from common.errors import InputError, describe
from common.jobs import torchrun_place, under_torchrun

COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # longer than a validation or a save, during which others wait


def start():
    """Joins the other processes if torchrun started this one: NCCL between GPUs, gloo between CPUs.

    Raises:
        InputError: PyTorch cannot use the GPUs that are there, or there are more processes than GPUs.
    """
    if under_torchrun():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    agree(_take_gpu)


def _take_gpu():
    gpu, local_rank, n_gpus = pick_device(), torchrun_place()[1], torch.cuda.device_count()
    if gpu.type == "cuda":
        if local_rank >= n_gpus:
            raise InputError(f"expected at most {n_gpus} processes on this machine, one for each GPU, got process {local_rank}")
        torch.cuda.set_device(gpu)


def end():
    """Takes leave of the others, who do the same. After an error nobody does: see `without_teardown`."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def without_teardown():
    """Ends a process of several at once where its body raises anything, SystemExit too, without the interpreter's teardown.

    What is to be said has been said by then, and all is saved and closed. In the teardown gloo now and then aborts the process
    ("terminate called without an active exception"), and a GPU waits for what the others will not send; they wait as long as
    this process is there.
    """
    try:
        yield
    except BaseException as error:
        if not under_torchrun():
            raise
        status = error.code or 0 if isinstance(error, SystemExit) else 1
        with contextlib.suppress(OSError):  # nobody reads any more
            if not isinstance(error, SystemExit):
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


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
    """Whether `flag` holds on any process; asked on the CPU, so that no GPU is waited for."""
    return bool(total(torch.tensor(float(flag))).item()) if dist.is_initialized() else flag


def collect(item):
    """The items of all processes, in a list."""
    items = [item] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(items, item)
    return items


def on_first(action):
    """Calls `action` on the first process alone and returns its result on every process; errors as of `agree`."""
    items = [agree(lambda: action() if rank() == 0 else None)]
    if dist.is_initialized():
        dist.broadcast_object_list(items, src=0)
    return items[0]


def agree(action):
    """Calls `action` on every process and returns its result; where it finds bad input on one, all of them end.

    Only the first process that fails explains itself, so that the reader sees one line.

    Args:
        action: what this process does alone: one that waits for the others would wait for one that has failed.

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


def check_same_everywhere(item):
    """Checks that all processes have the same: another configuration or other recordings on one machine would train to no purpose.

    Raises:
        InputError: on the first process, where they have not.
        SystemExit: status 2, on the others.
    """
    if any(other != item for other in collect(item)):
        message = "processes have different configurations or recordings (expected: the same on all machines)"
        raise InputError(message) if rank() == 0 else SystemExit(2)
