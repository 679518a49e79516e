"""Commands as a user starts them, and functions in processes that are there within milliseconds."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.conftest import ROOT

PYTHON = sys.executable
TRAINING = (PYTHON, "-m", "training.launch")

_started = []

# These processes are forked off a server that has imported everything once, torch._dynamo too, which optimisers import.
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["train", "torch._dynamo", "tests.training_fixtures"])


def start(*command, **options):
    """Starts a command in the repository, in a session of its own, on one thread; returns the process, with pipes of text.

    Args:
        options: of `subprocess.Popen`, in place of these.
    """
    usual = {
        "cwd": ROOT,
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,
        "preexec_fn": _obey_signals,
    }
    _started.append(subprocess.Popen([str(part) for part in command], **usual | options))
    return _started[-1]


def _obey_signals():
    """Also where the tests run in the background or under nohup, which ignore these."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def run_to_end(*command, timeout=300, **options):
    """Runs a command as `start` starts it; returns a `subprocess.CompletedProcess` with its output and errors."""
    with start(*command, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def wait_for(condition, timeout=300):
    """Polls until `condition()` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def end_all():
    """Kills what `start` and `start_processes` have started and is still there, with its children: a test has failed."""
    for process in _started:
        is_there = process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()
        if is_there:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.kill()
        if isinstance(process, subprocess.Popen):
            process.wait()
        else:
            process.join()
    _started.clear()


def children(pid):
    """Process ids of a process's children, on Linux."""
    return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]


def start_processes(target, *arguments, n_processes=1, log=os.devnull):
    """Starts `target(*arguments)` in processes that find each other as torchrun's would; their output goes to `log`."""
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port()), "TORCHELASTIC_RUN_ID": "test"}
    processes = []
    for rank in range(n_processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes)}
        variables = common | own if n_processes > 1 else {}
        processes.append(_FORKSERVER.Process(target=_in_process, args=(variables, str(log), target, arguments)))
        processes[-1].start()
    _started.extend(processes)
    return processes


def finish(processes, timeout=300):
    """Waits for processes and returns their exit statuses."""
    for process in processes:
        process.join(timeout)
        assert process.exitcode is not None, "a process hangs"
    return [process.exitcode for process in processes]


def run_processes(target, *arguments, n_processes=1, timeout=300):
    """Runs `target(*arguments)` in processes to their end; returns their exit statuses and what they said."""
    with tempfile.NamedTemporaryFile("r") as log:
        return finish(start_processes(target, *arguments, n_processes=n_processes, log=log.name), timeout), log.read()


def kill(processes):
    """SIGKILL, and wait."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def _in_process(variables, log, target, arguments):
    os.environ.update(variables, CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    target(*arguments)
