"""What each of several processes computes with. What becomes of them is tested with their commands."""

import os

import pytest

from benchmarking.tools.workers import start_workers
from common.errors import InputError
from common.jobs import cores_each, device_of_job, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system restricts no process to some of its cores")
def test_cores_are_those_that_the_process_may_use(monkeypatch):
    """Fails if a batch system that gives four cores of a large machine gets as many processes as that has cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 4
    assert [cores_each(n) for n in (1, 2, 3, 4, 5)] == [4, 2, 1, 1, 1]


def test_jobs_take_the_gpus_in_turn(gpus):
    gpus(2)
    assert [device_of_job(None, k) for k in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of_job("cuda:1", 0) == "cuda:1" and device_of_job("cpu", 1) == "cpu"
    gpus(0, usable=False)
    assert device_of_job(None, 1) is None


def test_unusable_gpus_are_said_before_processes_start(gpus):
    gpus(8, usable=False)
    for jobs in (1, 8):
        with pytest.raises(InputError, match="driver is too old"), start_workers(None, jobs):
            pass
