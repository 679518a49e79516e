"""What each of several processes computes with; test_inference.py has more on jobs."""

import os

import pytest
import torch

from benchmarking.workers import in_processes
from common.errors import InputError
from common.jobs import cores_each, device_of_job, limit_threads, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system restricts no process to some of its cores")
def test_cores_are_those_that_the_process_may_use(monkeypatch):
    """Fails if a batch system that gives four cores of a large machine gets as many processes as that has cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 4
    assert [cores_each(n) for n in (1, 2, 3, 4, 5)] == [4, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "groups, files, wanted",
    [
        ("0::/a/b", {"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("4:cpu,cpuacct:/a\n2:memory:/b", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 4),
        ("0::/a", {"cpu.max": "10000 100000"}, 1),
        ("0::/a", {"a/cpu.max": "something else"}, 4),
        ("", {}, 4),
    ],
)
def test_cores_are_those_that_a_container_grants(tmp_path, monkeypatch, groups, files, wanted):
    """Fails if a container of one core on a machine of 64 gets 64 threads; its quota shows in control groups alone."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr("common.jobs.CGROUPS", tmp_path)
    monkeypatch.setattr("common.jobs.CGROUP_OF_PROCESS", tmp_path / "groups")
    assert usable_cores() == wanted
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        limit_threads()
        assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(before)


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
