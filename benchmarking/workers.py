"""Several processes for one command. What they compute does not depend on their number: each computes on one thread."""

import multiprocessing
import signal
import warnings

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from common.device import pick_device, unusable_gpus
from common.errors import InputError
from common.jobs import device_of_job, usable_cores


def default_jobs():
    """One process for each GPU, or each core."""
    return torch.cuda.device_count() or usable_cores()


def device_of_worker():
    """The device of this process: the machine's GPUs in turn, where it has any. PyTorch has one thread from now on."""
    torch.set_num_threads(1)  # sums of floats depend on their number
    torch.backends.cudnn.deterministic = True
    number = multiprocessing.current_process().name.rpartition("-")[2]  # joblib calls them LokyProcess-1, LokyProcess-2
    return pick_device(device_of_job(None, int(number) if number.isdecimal() else 0))


def in_processes(function, tasks, jobs):
    """Yields `function(*task)` for each task, in their order.

    Args:
        function: of a module.
        jobs: number of processes; 1 computes in this one.

    Raises:
        InputError: PyTorch cannot use the GPUs that are there, or a process was killed.
    """
    if problem := unusable_gpus():
        raise InputError(problem)
    warnings.filterwarnings("ignore", "[0-9]+ tasks which were still being processed", UserWarning)  # after Ctrl-C
    # Ctrl-C reaches all processes of a terminal, and is this one's to handle.
    ignoring = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    try:
        yield from Parallel(jobs, return_as="generator", batch_size=1, **ignoring)(delayed(function)(*task) for task in tasks)
    except TerminatedWorkerError:
        raise InputError("a worker process was killed, for want of memory perhaps (expected: fewer --jobs)") from None
