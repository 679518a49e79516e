"""Several processes that share the work of one command: what each of them computes with, and that none outlives the command."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import joblib
import torch

JOBS = "jobs"  # the run id that `run_jobs` gives its processes, in place of torchrun's


def usable_cores():
    """Number of the cores that this process may use, by its affinity and by the quota of its container."""
    return joblib.cpu_count()


def limit_threads():
    """Lets PyTorch use no more threads than `usable_cores`, unless OMP_NUM_THREADS says how many; it looks at no quota itself."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def cores_each(n_processes):
    """Number of cores for each of several processes, at least 1."""
    return max(usable_cores() // n_processes, 1)


def device_of_job(name, k):
    """The device that the K-th process computes on where `name`, or None, was asked for: the GPUs in turn."""
    if name in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{k % torch.cuda.device_count()}"
    return name


def under_torchrun():
    """Whether torchrun or `run_jobs` started this process. RANK and WORLD_SIZE alone may be left over from something else."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def torchrun_place():
    """Rank, rank on this machine, and number of processes, as torchrun says; 0, 0 and 1 without it."""
    if not under_torchrun():
        return 0, 0, 1
    return tuple(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))


def run_jobs(command, n_jobs):
    """Runs a command in several processes, each with its share of the cores, and of the GPUs where there are any.

    They know their place by `torchrun_place`. None of them outlives this process, however it ends: see `end_with_parent`.

    Returns:
        an exit status: that of all, or 1 where they differ; a job that was killed is said, and counts as 2.
    """
    print(f"note: {n_jobs} processes begin, each of which loads PyTorch and the weights", file=sys.stderr)
    shared = os.environ | {"OMP_NUM_THREADS": str(cores_each(n_jobs)), "TORCHELASTIC_RUN_ID": JOBS, "WORLD_SIZE": str(n_jobs)}
    places = [shared | {"RANK": str(k), "LOCAL_RANK": str(k)} for k in range(n_jobs)]
    jobs = [subprocess.Popen(command, env=place, stdin=subprocess.PIPE) for place in places]
    try:
        statuses = [job.wait() for job in jobs]
    except BaseException:
        for job in jobs:
            job.terminate()
        for job in jobs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(10)
            job.kill()
        raise
    for k, status in enumerate(statuses):
        if status < 0 or status > 128:  # at once, or after it has removed its temporary files
            name = signal.Signals(-status if status < 0 else status - 128).name
            print(f"error: job {k + 1} of {n_jobs} was ended by {name}; its other files are not done", file=sys.stderr)
    statuses = {status if 0 <= status <= 2 else 2 for status in statuses}
    return statuses.pop() if len(statuses) == 1 else 1


def end_with_parent():
    """Ends a process that `run_jobs` started, as SIGTERM does, when the one that started it has ended; does nothing in any other."""

    def watch():
        os.read(sys.stdin.fileno(), 1)  # nothing is written to it, so this returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.get("TORCHELASTIC_RUN_ID") == JOBS:
        threading.Thread(target=watch, daemon=True).start()
