"""What each of several processes computes with; test_inference.py has more on jobs."""

import pytest
import torch

from benchmarking.workers import in_processes
from common.errors import InputError
from common.jobs import cores_each, device_of_job, limit_threads, usable_cores


def test_pytorch_gets_the_cores_that_the_process_may_use(monkeypatch):
    """Fails if a container of four cores on a machine of 64 gets 64 threads."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_cores() == 4
    assert [cores_each(n) for n in (1, 2, 3, 4, 5)] == [4, 2, 1, 1, 1]
    limits = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", limits.append)
    limit_threads()
    assert limits == [4]


def test_jobs_take_the_gpus_in_turn(gpus):
    gpus(2)
    assert [device_of_job(None, k) for k in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of_job("cuda:1", 0) == "cuda:1" and device_of_job("cpu", 1) == "cpu"
    gpus(0, usable=False)
    assert device_of_job(None, 1) is None


def test_unusable_gpus_are_said_before_processes_start(gpus):
    gpus(8, usable=False)
    for jobs in (1, 8):
        with pytest.raises(InputError, match="driver is too old"):
            next(in_processes(abs, [(1,)], jobs))
