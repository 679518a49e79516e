"""Vocoding through the command line: names, seeds, batches, warnings, and bad input of every kind."""

import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from common.errors import run_command
from inference import main, vocode_files
from model.config import NetworkConfig
from model.network import WaveGrad
from model.noise_schedule import NoiseSchedule, interpolate, linear, repeat
from tests.conftest import ROOT, tiny_config_values
from tests.processes import PYTHON, children, run_to_end, start, wait_for
from vocoder import Vocoder, compiled

INFERENCE = (PYTHON, "inference.py")


@pytest.fixture
def arguments(tmp_path, tiny_checkpoint):
    """Arguments that vocode the mels `a.npy`, `b.pt` and `c.npy` in `tmp_path` into `out`."""
    linear(3, 1e-3, 0.6).save(tmp_path / "schedule.json")
    generator = torch.Generator().manual_seed(0)
    mels = {name: torch.rand(20, frames, generator=generator) * 4 - 6 for name, frames in [("a", 7), ("b", 7), ("c", 5)]}
    np.save(tmp_path / "a.npy", mels["a"].numpy())
    torch.save(mels["b"][None], tmp_path / "b.pt")
    np.save(tmp_path / "c.npy", mels["c"].numpy())
    (tmp_path / "list.txt").write_text("a.npy\nb.pt\nc.npy\n")
    arguments = ["-ch", tiny_checkpoint, "-ns", tmp_path / "schedule.json", "-m", tmp_path / "list.txt"]
    return [*arguments, "-o", tmp_path / "out"]


@pytest.fixture
def run(arguments, capsys):
    """run(*options): exit status, standard output and standard error of the command with `arguments` and these."""

    def run(*options):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: main([str(argument) for argument in [*arguments, *options]]))
        return SimpleNamespace(returncode=exit.value.code, **capsys.readouterr()._asdict())

    return run


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def waveform(path):
    return soundfile.read(path, dtype="int16")[0].astype(int)


def test_vocodes_a_filelist_with_the_flags_of_the_manual(run, tmp_path):
    result = run("-v", "yes")
    assert result.returncode == 0, result.err
    assert names(tmp_path / "out") == ["a.wav", "b.wav", "c.wav"]
    assert "real-time factor" in result.out
    for name, frames in [("a", 7), ("c", 5)]:
        info = soundfile.info(tmp_path / "out" / f"{name}.wav")
        assert (info.frames, info.samplerate, info.subtype, info.channels) == (frames * 40, 8000, "PCM_16", 1)


def test_quiet_says_nothing_but_warnings(run):
    """Such as that a schedule cannot start from noise."""
    result = run("-v", "no", "-ns", ROOT / "schedules" / "ivanvovk-6.json")
    assert (result.returncode, result.out) == (0, "") and "final noise level 0.964" in result.err
    assert all(line.startswith("warning: ") for line in result.err.splitlines())


def test_the_seed_decides_and_batches_and_chunks_do_not(run, tmp_path):
    contents = {}
    for key, extra in [("one", []), ("again", []), ("batch", ["--batch_size", "3", "--chunk_frames", "2"]), ("seed", ["--seed", "1"])]:
        assert run("-v", "no", *extra, "-o", tmp_path / key).returncode == 0
        contents[key] = [waveform(tmp_path / key / f"{name}.wav") for name in "abc"]
    for one, again, batch, seed in zip(*contents.values()):
        assert np.array_equal(one, again) and not np.array_equal(one, seed)
        assert np.abs(one - batch).max() <= 1


def test_jobs_give_what_one_process_gives(arguments, tmp_path):
    """Fails if a job leaves out a file, computes another one's, or hides that one could not be used."""
    for jobs in (1, 2):
        result = run_to_end(*INFERENCE, *arguments, "-v", "no", "--jobs", jobs, "-o", tmp_path / f"jobs-{jobs}")
        assert result.returncode == 0, result.stderr
    assert names(tmp_path / "jobs-2") == ["a.wav", "b.wav", "c.wav"]
    for name in names(tmp_path / "jobs-2"):
        one, two = (waveform(tmp_path / f"jobs-{jobs}" / name) for jobs in (1, 2))
        assert np.abs(one - two).max() <= 1  # sums depend on how many threads share them

    (tmp_path / "c.npy").write_bytes(b"no mel")
    for options, status in [([], 1), (["--sampler", "euler"], 2)]:
        result = run_to_end(*INFERENCE, *arguments, "--jobs", "2", *options)
        assert result.returncode == status and result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine")
def test_compiled_network_gives_the_same():
    """Fails if the network cannot be compiled, or the compiled one computes something else at any length."""
    values = tiny_config_values()["network"] | {"factors": [3, 2], "upsampling_channels": [4, 4], "downsampling_channels": [4]}
    values |= {"upsampling_dilations": [[1, 2, 1, 2]] * 2, "downsampling_dilations": [[1, 2, 4]]}
    torch.manual_seed(0)
    network = WaveGrad(NetworkConfig.model_validate_json(json.dumps(values)), 8).eval().requires_grad_(False)
    fast = compiled(network, torch.device("cpu"))
    for frames in (30, 41):
        y, mel, noise_level = torch.randn(1, 6 * frames), torch.randn(1, 8, frames), torch.rand(1, dtype=torch.float64)
        with torch.inference_mode():
            torch.testing.assert_close(fast(y, mel, noise_level), network(y, mel, noise_level), atol=1e-5, rtol=1e-4)


def test_processes_share_the_files(run, tmp_path, monkeypatch):
    """As under `torchrun inference.py`, which sets these variables."""
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    for rank, wanted in enumerate([["a.wav"], ["a.wav", "b.wav"], ["a.wav", "b.wav", "c.wav"], ["a.wav", "b.wav", "c.wav"]]):
        monkeypatch.setenv("RANK", str(rank))
        assert run().returncode == 0
        assert names(tmp_path / "out") == wanted


@pytest.mark.parametrize(
    "option, sample_rate, channels, words",
    [("--resample", 16000, 1, "16000 Hz"), ("--mix_to_mono", 8000, 2, "2 channels"), (None, 8000, 1, "")],
)
def test_recordings_are_resynthesised_and_converted_only_on_request(run, tmp_path, write_recording, option, sample_rate, channels, words):
    options = ["-m", write_recording(tmp_path / "speech.flac", 0.1017, sample_rate, channels)]
    if option:
        refused = run(*options)
        assert refused.returncode == 2 and re.search(f"error: .*speech.flac: .*{words}.*{option}", refused.err)
        options.append(option)
    assert run(*options).returncode == 0
    info = soundfile.info(tmp_path / "out" / "speech.wav")
    assert (info.frames, info.samplerate, info.channels) == (800, 8000, 1)


def test_precision_and_correction_reach_the_vocoder(run, tmp_path):
    """In a batch, too."""
    correction, found = ["--gla_grad", "2"], {}
    for key, options in {
        "plain": [],
        "coarse": ["--dtype", "bfloat16"],
        "corrected": correction,
        "batch": [*correction, "--batch_size", "3"],
    }.items():
        assert run("--dtype", "float32", *options, "-o", tmp_path / key).returncode == 0
        found[key] = waveform(tmp_path / key / "b.wav")
    assert 0 < np.abs(found["plain"] - found["coarse"]).max() < 0.1 * np.abs(found["plain"]).max()
    assert np.abs(found["plain"] - found["corrected"]).max() > 3000
    assert np.abs(found["corrected"] - found["batch"]).max() < 30


LONG_NAME = "n" * 250  # so long that the result's is too long


def write_long_names(folder):
    for suffix, source in [(".npy", "a.npy"), (".pt", "b.pt")]:  # whose results are told apart by it
        (folder / f"{LONG_NAME}{suffix}").write_bytes((folder / source).read_bytes())
    (folder / "list.txt").write_text(f"a.npy\n{LONG_NAME}.npy\n{LONG_NAME}.pt\nc.npy\n")


@pytest.mark.parametrize(
    "spoil, errors, done",
    [
        (lambda folder: np.save(folder / "a.npy", np.full((20, 7), np.nan)), ["a.npy: mel holds NaN or infinity"], "bc"),
        (lambda folder: np.save(folder / "a.npy", np.full((20, 7), 12.0)), ["a.npy: [0-9]+% of .* is at full scale, .*mel scale"], "bc"),
        (lambda folder: torch.save(torch.zeros(20, 1).expand(20, 10**12), folder / "b.pt"), ["b.pt: "], "ac"),  # fits into no memory
        (write_long_names, 2 * ["File name too long"], "ac"),
    ],
    ids=["NaN", "scale", "huge", "name"],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_wrong_with_one_file_does_not_stop_the_others(run, tmp_path, spoil, errors, done, batch_size):
    spoil(tmp_path)
    result = run("--batch_size", batch_size)
    found = [line for line in result.err.splitlines() if "error: " in line]
    assert result.returncode == 1 and len(found) == len(errors) and "Traceback" not in result.err
    assert all(re.search(words, line) for words, line in zip(errors, found))
    assert "mel scale" not in errors[0] or re.search("warning: .*a.npy: .*mel scale", result.err)
    assert names(tmp_path / "out") == [f"{name}.wav" for name in done]


def test_derived_schedules_give_what_files_of_their_betas_give(run, tmp_path):
    """Fails if `--steps`, `--repeat` or a text is another schedule than Python's, or takes another sampler."""
    schedule = NoiseSchedule(linear(3, 1e-3, 0.6).betas, sampler="ddim", many_steps_sampler="ancestral")
    schedule.save(tmp_path / "schedule.json")
    for derived, options in [
        (interpolate(schedule, 5), [["--steps", 5], ["-ns", f"{tmp_path}/schedule.json:5"]]),
        (repeat(schedule, 4), [["--repeat", 4], ["-ns", f"{tmp_path}/schedule.json:x4"]]),
    ]:
        np.save(tmp_path / "betas.npy", derived.betas)
        found = []
        for option in [["-ns", tmp_path / "betas.npy", "--sampler", derived.sampler], *options]:
            result = run("-v", "yes", *option)
            assert result.returncode == 0 and f"({len(derived)} steps" in result.out, result.err
            found.append([(tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")])
        assert found[0] == found[1] == found[2]


def corrupt(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: ["-ch", d / "none.pt"], "none.pt: No such file"),
        (lambda d: ["-ch", corrupt(d / "cut.safetensors", b"abc")], "cut.safetensors: .*damaged"),
        (lambda d: ["-ns", d / "none.json"], "none.json: No such file"),
        (lambda d: ["-ns", corrupt(d / "s.json", b"[2]")], "s.json: betas must be inside"),
        (lambda d: ["-ns", f"{d}/none.json:6"], "none.json: No such file"),
        (lambda d: ["-ns", f"{d}/schedule.json:six"], "schedule.json:six: no noise schedule"),
        (lambda d: ["-ns", "linear:6:1e-6"], "linear:6:1e-6: no noise schedule"),
        (lambda d: ["--steps", "0"], "--steps is 0"),
        (lambda d: ["--steps", "1"], "schedule.json: .* no curve"),
        (lambda d: ["--repeat", "1000000"], "schedule.json: number of repetitions is 1000000"),
        (lambda d: ["--steps", "6", "--repeat", "2"], "--repeat: not allowed with argument --steps"),
        (lambda d: ["-m", d / "none.txt"], "none.txt: No such file"),
        (lambda d: ["-m", corrupt(d / "empty.txt", b"\n")], "empty.txt: the filelist is empty"),
        (lambda d: ["-m", corrupt(d / "l.txt", b"none.npy\n")], "none.npy: No such file"),
        (lambda d: ["-m", corrupt(d / "l.txt", b"schedule.json\n")], "schedule.json: unknown kind of file"),
        (lambda d: ["-c", corrupt(d / "c.json", b"{}")], "c.json: missing key"),
        (lambda d: ["-c", ROOT / "configs" / "default.json"], "tiny.safetensors: network.factors is"),
        (lambda d: ["--sampler", "euler"], "sampler 'euler'"),
        (lambda d: ["--batch_size", "0"], "--batch_size is 0"),
        (lambda d: ["--chunk_frames", "-1"], "--chunk_frames is -1"),
        (lambda d: ["--device", "nonsense"], "--device: 'nonsense' .expected: cpu, cuda"),
        (lambda d: ["--device", "cuda:99"], "--device cuda:99: not available"),
        (lambda d: ["-v", "maybe"], "invalid choice: 'maybe'"),
        (lambda d: ["--gla_grad", "-1"], "--gla_grad is -1 .expected: a whole number, 0 to"),
        (lambda d: ["--compile"], "no-such-compiler is not found"),
        (lambda d: ["-m", d / "a.npy", "-o", corrupt(d / "file", b"")], "file"),
    ],
)
def test_bad_input_is_one_line_status_2_and_no_output(run, tmp_path, monkeypatch, change, words):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = run(*change(tmp_path))
    errors = [line for line in result.err.splitlines() if "error: " in line]
    assert result.returncode == 2 and len(errors) == 1 and re.search(words, errors[0])
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_clipping_is_said(arguments, tmp_path, tiny_network, tiny_config, capsys):
    vocoder = Vocoder(tiny_network, tiny_config, linear(2, 1e-3, 0.6))
    vocoder.stream = lambda mels, seed: [(0, torch.tensor([1.0] * 20 + [0.5] * 260))]
    vocode_files(vocoder, [tmp_path / "a.npy"], [tmp_path / "a.wav"], progress=False)
    assert "20 samples are clipped" in capsys.readouterr().err


def test_a_file_listed_twice_is_vocoded_once(run, tmp_path):
    """In a batch, too, where both would write to one file."""
    (tmp_path / "list.txt").write_text("a.npy\n./a.npy\nb.pt\n")
    result = run("--batch_size", "2")
    assert result.returncode == 0 and "error" not in result.err
    assert "1 lines name a file again" in result.err
    assert names(tmp_path / "out") == ["a.wav", "b.wav"]


def test_results_are_not_inputs_of_the_next_run(run, tmp_path, write_recording):
    data = tmp_path / "data"
    before = write_recording(data / "a.wav", seconds=0.2).read_bytes()
    for _ in range(2):
        assert run("-m", data, "-o", data / "out").returncode == 0
        assert names(data) == ["a.wav", "out/a.wav"]
    (data / "c.npy").write_bytes((tmp_path / "c.npy").read_bytes())
    for _ in range(2):
        result = run("-m", data, "-o", data)
        assert result.returncode == 1 and result.err.count("error: ") == 1 and "a.wav: the result would overwrite" in result.err
        assert names(data) == ["a.wav", "c.npy", "c.wav", "out/a.wav"]
    assert (data / "a.wav").read_bytes() == before


def test_recordings_in_the_folder_of_the_results_are_inputs_and_stay(run, tmp_path, write_recording):
    data = tmp_path / "data"
    for name in "ab":
        before = write_recording(data / name / "x.wav", seconds=0.2, seed=ord(name)).read_bytes()
    assert run("-m", data, "-o", data / "b").returncode == 0
    assert (data / "b" / "x.wav").read_bytes() == before
    assert names(data / "b") == ["a/x.wav", "b/x.wav", "x.wav"]


def test_standard_streams_may_be_closed(arguments, tmp_path):
    """As a service manager or `>&- 2>&-` starts it."""
    command = " ".join(f"'{part}'" for part in [*INFERENCE, *arguments, "-v", "yes"])
    assert run_to_end("sh", "-c", f"{command} >&- 2>&-").returncode == 0
    assert names(tmp_path / "out") == ["a.wav", "b.wav", "c.wav"]


def test_a_full_disk_costs_the_file_that_does_not_fit_and_no_other(arguments, tmp_path):
    """In a process that may write no more than 50 kB to a file."""
    np.save(tmp_path / "long.npy", np.full((20, 1000), -5.0))
    (tmp_path / "list.txt").write_text("a.npy\nlong.npy\nc.npy\n")
    limit = (50_000, 50_000)
    result = run_to_end(*INFERENCE, *arguments, "-v", "no", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert result.returncode == 1, result.stderr
    assert f"error: {tmp_path / 'out' / 'long.wav'}: File too large" in result.stderr and "Traceback" not in result.stderr
    assert names(tmp_path / "out") == ["a.wav", "c.wav"]


def test_names_that_are_not_utf_8_are_vocoded(run, tmp_path):
    name = "голос".encode("cp1251")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / os.fsdecode(name + b".npy")).write_bytes((tmp_path / "a.npy").read_bytes())
    assert run("-m", tmp_path / "data").returncode == 0
    assert os.listdir(os.fsencode(tmp_path / "out")) == [name + b".wav"]


@pytest.fixture
def slow_jobs(arguments, tmp_path):
    """Starts two jobs that take minutes; returns the parent and the jobs' numbers once both have begun to write."""
    linear(1000, 1e-4, 0.02).save(tmp_path / "schedule.json")
    for name in "ac":
        np.save(tmp_path / f"{name}.npy", np.full((20, 20_000), -5.0))
    (tmp_path / "list.txt").write_text("a.npy\nc.npy\n")
    with start(*INFERENCE, *arguments, "-v", "no", "--jobs", "2") as parent:
        wait_for(lambda: parent.poll() is not None or len(list((tmp_path / "out").glob(".*"))) == 2)
        yield parent, children(parent.pid), tmp_path / "out"
        parent.kill()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_end_with_their_parent_and_leave_nothing(slow_jobs, number):
    parent, jobs, output = slow_jobs
    assert len(jobs) == 2
    parent.send_signal(number)
    parent.communicate(timeout=30)  # ends when no process has a pipe open any more
    assert parent.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert list(output.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_job_that_is_killed_is_said(slow_jobs):
    parent, jobs, _ = slow_jobs
    for pid, number in zip(jobs, (signal.SIGKILL, signal.SIGTERM)):
        os.kill(pid, number)
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode == 2
    assert sorted(line.partition("was ")[2] for line in errors.splitlines() if line.startswith("error: ")) == [
        "ended by SIGKILL; its other files are not done",
        "ended by SIGTERM; its other files are not done",
    ]
