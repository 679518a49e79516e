"""Several processes that each hold their own network, and answer in the order they are asked.

A task's answer must not depend on the number of processes, so each computes on one thread, whatever their number: sums of
floats depend on how many threads share them.
"""

import contextlib
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process

import torch

from model.errors import InputError

_worker = None  # what this process computes with


def _end_with_parent():
    # A process pool whose parent is killed waits for its next task for ever.
    parent_process().join()
    os._exit(1)


def _device(number):
    n_devices = torch.cuda.device_count()
    return torch.device("cuda", number % n_devices) if n_devices else torch.device("cpu")


def _start(make_worker, counter):
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    _worker = make_worker(_device(number))


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
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def start_workers(make_worker, jobs):
    """Starts processes; gives a function that takes tasks and yields their answers in order.

    Args:
        make_worker: called as `make_worker(device)` in each process; returns a function of a task. Must be picklable.
        jobs: number of processes; 1 computes in this one. They share the machine's GPUs evenly, where it has any.

    Raises:
        InputError: fewer than one job.
    """
    if jobs < 1:
        raise InputError(f"{jobs} jobs are asked for (wanted: 1 or more)")
    if jobs == 1:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            worker = make_worker(_device(0))
            yield lambda tasks: map(worker, tasks)
        finally:
            torch.set_num_threads(n_threads)
        return
    context = get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start, (make_worker, context.Value("i", 0)))
    try:
        yield lambda tasks: _in_order(pool, tasks, 2 * jobs)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
