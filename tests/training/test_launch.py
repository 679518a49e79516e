"""The launcher: one process per GPU or several on the CPU, and the exit status of the run."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from torch.distributed.run import parse_args

from tests.processes import TRAINING, children, run_to_end, start, wait_for
from tests.training_fixtures import train_to_end, write_run
from training import launch


def test_run_script_trains_and_goes_on(tmp_path):
    """The real command goes on with the run of another process."""
    train_to_end(write_run(tmp_path, n_steps=5), tmp_path / "log")
    config = write_run(tmp_path, n_steps=10)
    result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 1)
    assert (result.returncode, result.stderr) == (0, "")
    assert "going on from" in result.stdout and "training.n_steps was 5, is 10" in result.stdout
    assert "step 5 " not in result.stdout and "step 10 " in result.stdout


@pytest.fixture
def endless(tmp_path):
    """endless(): a run of two processes that has made five steps, and the process ids by rank."""

    def begin():
        config = write_run(tmp_path, n_steps=100_000, save_every=50_000)
        process = start(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 2)
        next(line for line in process.stdout if "step 5 " in line)
        return process, {rank_of(pid): pid for pid in children(process.pid)}

    return begin


def rank_of(pid):
    return int(re.search(rb"\0RANK=(\d)", Path(f"/proc/{pid}/environ").read_bytes())[1])


def test_sigterm_saves_and_exits_cleanly(tmp_path, endless):
    """Fails if a signal loses steps, leaves a traceback, or if the run cannot go on from where it stopped."""
    process, _ = endless()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    stopped_at = int(re.search(r"stopped by SIGTERM at step (\d+)", output).group(1))
    said = train_to_end(write_run(tmp_path, n_steps=stopped_at + 2), tmp_path / "log", n_processes=2)
    assert f"going on from {tmp_path}/log/checkpoint-{stopped_at:08d}.pt" in said


def test_dead_process_ends_the_run(endless):
    """Fails if the others wait for it: the run must end within a minute, and say who died of what."""
    process, ranks = endless()
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: process 1 was killed by SIGKILL" in errors
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks.values()))


def test_bad_input_is_said_once_by_several_processes(tmp_path):
    """Fails if the processes all complain, or torchrun's report covers it."""
    config = write_run(tmp_path)
    (tmp_path / "train_3.wav").unlink()
    result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", "--nproc", 2)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path}/train_3.wav: No such file or directory\n"


def test_driver_too_old_for_the_gpus(monkeypatch, capsys, gpus):
    """Fails if eight GPUs that PyTorch cannot use become eight processes on the CPU, or one."""
    gpus(8, usable=False)
    monkeypatch.setattr("sys.argv", ["training/launch.py", "-c", "x.json"])
    assert launch.main() == 2
    assert capsys.readouterr().err.startswith("error: 8 GPUs are there, but their driver is too old")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL], ids=["nohup", "plain"])
def test_torchrun_leaves_an_ignored_hangup_alone(monkeypatch, handler):
    """Fails if several processes under nohup end with the terminal: torchrun would heed the signal."""
    monkeypatch.setattr("sys.argv", ["training/launch.py", "--nproc", "2", "-c", "x.json"])
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "PET_SIGNALS_TO_HANDLE"):
        monkeypatch.setenv(name, "")  # `launch.main` sets them for good
        monkeypatch.delenv(name)
    handled = []
    monkeypatch.setattr(launch, "torchrun", lambda arguments: handled.extend(parse_args(arguments).signals_to_handle.split(",")))
    before = signal.signal(signal.SIGHUP, handler)
    try:
        launch.main()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ("SIGHUP" in handled) == (handler == signal.SIG_DFL) and "SIGTERM" in handled


@pytest.mark.parametrize(
    "arguments, handed_on",
    [
        ("-c x.json", (None, [], ["-c", "x.json"])),
        ("--nproc 2 -c x.json --dry-run", (2, [], ["-c", "x.json", "--dry-run"])),
        ("-c x.json --nproc=3 -- --nnodes 2", (3, ["--nnodes", "2"], ["-c", "x.json"])),
    ],
)
def test_launcher_hands_arguments_on(arguments, handed_on):
    assert launch.parse_arguments(arguments.split()) == handed_on


@pytest.mark.parametrize("arguments, status", [(["-c", "x.json", "--nproc=0"], 2), (["--help"], 0)])
def test_launcher_names_its_own_options(arguments, status, capsys):
    """Fails if no processes are started, or if the help is that of train.py, which knows nothing of processes."""
    with pytest.raises(SystemExit) as exit_status:
        launch.parse_arguments(arguments)
    assert exit_status.value.code == status and "--nproc" in "".join(capsys.readouterr())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_do_what_one_does(tmp_path):
    config = write_run(tmp_path, n_steps=5)
    weights = []
    for devices in ("0", "0,1"):
        result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / devices, env=os.environ | {"CUDA_VISIBLE_DEVICES": devices})
        assert result.returncode == 0, result.stderr
        weights.append(torch.load(tmp_path / devices / "checkpoint-00000005.pt", map_location="cpu")["network"])
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-4
