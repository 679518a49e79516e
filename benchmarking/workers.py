"""Several processes that each hold their own network, and answer in the order they are asked.

A task's answer must not depend on the number of processes, so each computes on one thread, whatever their number: sums of
floats depend on how many threads share them.
"""

import contextlib
import os
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context

import torch

from common.device import pick_device, unusable_gpus
from common.errors import InputError
from common.jobs import device_of_job, end_with_parent, usable_cores

_worker = None  # what this process computes with


def _start(make_worker, counter):
    global _worker
    end_with_parent()  # else it would wait for its next task for ever
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    _worker = make_worker(pick_device(device_of_job(None, number)))


def _start_pool(make_worker, jobs):
    context = get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start, (make_worker, context.Value("i", 0)))
    # Ctrl-C reaches all processes of a terminal, and is the parent's to handle. A process inherits that a signal is ignored,
    # and a pool starts one process for each task until there are enough.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for _ in range(jobs):
            pool.submit(os.getpid)
    finally:
        signal.signal(signal.SIGINT, handler)
    return pool


def _ask(task):
    return _worker(task)


def _in_order(pool, tasks, n_waiting):
    waiting = deque()
    for task in tasks:
        waiting.append(pool.submit(_ask, task))
        if len(waiting) >= n_waiting:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def default_jobs():
    """One process for each GPU, or each core."""
    return torch.cuda.device_count() or usable_cores()


@contextlib.contextmanager
def start_workers(make_worker, jobs):
    """Starts processes; gives a function that takes tasks and yields their answers in order.

    Args:
        make_worker: called as `make_worker(device)` in each process; returns a function of a task. Must be picklable.
        jobs: number of processes; 1 computes in this one. They share the machine's GPUs evenly, where it has any.

    Raises:
        InputError: fewer than one job, PyTorch cannot use the GPUs that are there, or a process was killed.
    """
    if jobs < 1:
        raise InputError(f"{jobs} jobs are asked for (expected: 1 or more)")
    if problem := unusable_gpus():
        raise InputError(problem)
    if jobs == 1:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            worker = make_worker(pick_device())
            yield lambda tasks: map(worker, tasks)
        finally:
            torch.set_num_threads(n_threads)
        return
    others = set(active_children())
    pool = _start_pool(make_worker, jobs)
    try:
        yield lambda tasks: _in_order(pool, tasks, 2 * jobs)
    except BaseException as error:
        for process in set(active_children()) - others:  # nobody waits for their answers
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise InputError("a worker process was killed, for want of memory perhaps (expected: fewer --jobs)") from None
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
