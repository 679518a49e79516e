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
def run(capsys):
    """run(arguments): what the command does, as its exit status, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: main([str(argument) for argument in arguments]))
        return SimpleNamespace(returncode=exit.value.code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture
def setup(tmp_path, tiny_checkpoint):
    """Arguments that vocode the mels `a.npy`, `b.pt` and `c.npy` into `out`; returns them and the folder."""
    linear(3, 1e-3, 0.6).save(tmp_path / "schedule.json")
    generator = torch.Generator().manual_seed(0)
    mels = {name: torch.rand(20, frames, generator=generator) * 4 - 6 for name, frames in [("a", 7), ("b", 7), ("c", 5)]}
    np.save(tmp_path / "a.npy", mels["a"].numpy())
    torch.save(mels["b"][None], tmp_path / "b.pt")
    np.save(tmp_path / "c.npy", mels["c"].numpy())
    (tmp_path / "list.txt").write_text("a.npy\nb.pt\nc.npy\n")
    arguments = ["-ch", tiny_checkpoint, "-ns", tmp_path / "schedule.json", "-m", tmp_path / "list.txt"]
    return [*arguments, "-o", tmp_path / "out"], tmp_path


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_vocodes_a_filelist_with_the_flags_of_the_manual(setup, run):
    arguments, folder = setup
    result = run(*arguments, "-v", "yes")
    assert result.returncode == 0, result.err
    assert names(folder / "out") == ["a.wav", "b.wav", "c.wav"]
    assert "real-time factor" in result.out
    for name, frames in [("a", 7), ("c", 5)]:
        info = soundfile.info(folder / "out" / f"{name}.wav")
        assert (info.frames, info.samplerate, info.subtype, info.channels) == (frames * 40, 8000, "PCM_16", 1)


def test_the_seed_decides_and_batches_and_chunks_do_not(setup, run):
    arguments, folder = setup
    contents = {}
    for key, extra in [("one", []), ("again", []), ("batch", ["--batch_size", "3", "--chunk_frames", "2"]), ("seed", ["--seed", "1"])]:
        assert run(*arguments, "-v", "no", *extra, "-o", folder / key).returncode == 0
        contents[key] = [soundfile.read(folder / key / f"{name}.wav", dtype="int16")[0] for name in "abc"]
    for one, again, batch, seed in zip(*contents.values()):
        assert np.array_equal(one, again)
        assert np.abs(one.astype(int) - batch).max() <= 1
        assert not np.array_equal(one, seed)


def test_jobs_give_what_one_process_gives(setup):
    """Fails if a job leaves out a file, computes another one's, or hides that one could not be used."""
    arguments, folder = setup
    for jobs in (1, 2):
        result = run_to_end(*INFERENCE, *arguments, "-v", "no", "--jobs", jobs, "-o", folder / f"jobs-{jobs}")
        assert result.returncode == 0, result.stderr
    for name in names(folder / "jobs-1"):
        one, two = (soundfile.read(folder / f"jobs-{jobs}" / name, dtype="int16")[0] for jobs in (1, 2))
        assert np.abs(one.astype(int) - two).max() <= 1  # sums depend on how many threads share them
    assert names(folder / "jobs-2") == ["a.wav", "b.wav", "c.wav"]

    (folder / "c.npy").write_bytes(b"no mel")
    result = run_to_end(*INFERENCE, *arguments, "-v", "no", "--jobs", "2")
    assert result.returncode == 1 and result.stderr.count("error: ") == 1
    result = run_to_end(*INFERENCE, *arguments, "--sampler", "euler", "--jobs", "2")
    assert result.returncode == 2 and result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr


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


def test_compiling_needs_a_compiler(setup, run, monkeypatch):
    arguments, _ = setup
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = run(*arguments, "--compile")
    assert result.returncode == 2 and "no-such-compiler is not found" in result.err


def test_processes_share_the_files(setup, run, monkeypatch):
    """As under `torchrun inference.py`, which sets these variables."""
    arguments, folder = setup
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    for rank, wanted in enumerate([["a.wav"], ["a.wav", "b.wav"], ["a.wav", "b.wav", "c.wav"], ["a.wav", "b.wav", "c.wav"]]):
        monkeypatch.setenv("RANK", str(rank))
        assert run(*arguments).returncode == 0
        assert names(folder / "out") == wanted


def test_quiet_says_nothing(setup, run):
    arguments, _ = setup
    result = run(*arguments, "-v", "no")
    assert (result.returncode, result.out) == (0, "")
    assert all(line.startswith("warning: ") for line in result.err.splitlines())


@pytest.mark.parametrize(
    "option, sample_rate, channels, words",
    [("--resample", 16000, 1, "16000 Hz"), ("--mix_to_mono", 8000, 2, "2 channels"), (None, 8000, 1, "")],
)
def test_recordings_are_resynthesised_and_converted_only_on_request(setup, run, write_recording, option, sample_rate, channels, words):
    arguments, folder = setup
    arguments += ["-m", write_recording(folder / "speech.flac", 0.1017, sample_rate, channels)]
    if option:
        refused = run(*arguments)
        assert refused.returncode == 2 and re.search(f"error: .*speech.flac: .*{words}.*{option}", refused.err)
        arguments.append(option)
    assert run(*arguments).returncode == 0
    info = soundfile.info(folder / "out" / "speech.wav")
    assert (info.frames, info.samplerate, info.channels) == (800, 8000, 1)


def test_bfloat16_is_another_rounding(setup, run):
    """Fails if `--dtype` changes nothing, or the result."""
    arguments, folder = setup
    for dtype in ("float32", "bfloat16"):
        assert run(*arguments, "--dtype", dtype, "-o", folder / dtype).returncode == 0
    fine, coarse = (soundfile.read(folder / dtype / "a.wav")[0] for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(fine - coarse).max() < 0.1 * np.abs(fine).max()


def test_gla_grad_corrects_what_is_written(setup, run):
    """Fails if the option does not reach the vocoder, in a batch too, or if a number that cannot be is a traceback."""
    arguments, folder = setup
    waveforms = []
    for options in (["--gla_grad", "2"], ["--gla_grad", "2", "--batch_size", "3"], []):
        assert run(*arguments, *options).returncode == 0
        waveforms.append(soundfile.read(folder / "out" / "b.wav")[0])
    assert np.abs(waveforms[0] - waveforms[1]).max() < 1e-3 < np.abs(waveforms[0] - waveforms[2]).max()
    refused = run(*arguments, "--gla_grad", "-1")
    assert refused.returncode == 2 and "--gla_grad is -1 (expected: a whole number, 0 to" in refused.err


def test_one_bad_file_does_not_stop_the_others(setup, run):
    arguments, folder = setup
    np.save(folder / "a.npy", np.full((20, 7), np.nan))
    result = run(*arguments)
    assert result.returncode == 1
    assert "a.npy: mel holds NaN or infinity" in result.err and "Traceback" not in result.err
    assert names(folder / "out") == ["b.wav", "c.wav"]


def test_a_mel_on_another_scale_is_said_and_a_waveform_that_cannot_be_speech_is_no_file(setup, run):
    arguments, folder = setup
    np.save(folder / "a.npy", np.full((20, 7), 12.0))
    result = run(*arguments)
    assert result.returncode == 1
    assert re.search("warning: .*a.npy: .*mel scale", result.err)
    assert re.search("error: .*a.npy: [0-9]+% of the waveform is at full scale, .*mel scale", result.err)
    assert names(folder / "out") == ["b.wav", "c.wav"]


def test_a_schedule_that_cannot_start_from_noise_is_used_with_a_warning(setup, run):
    arguments, folder = setup
    result = run(*arguments, "-ns", ROOT / "schedules" / "ivanvovk-6.json")
    assert result.returncode == 0
    assert "final noise level 0.964" in result.err


def test_derived_schedules_give_what_files_of_their_betas_give(setup, run):
    """Fails if `--steps`, `--repeat` or a text is another schedule than Python's, or takes another sampler."""
    arguments, folder = setup
    schedule = NoiseSchedule(linear(3, 1e-3, 0.6).betas, sampler="ddim", many_steps_sampler="ancestral")
    schedule.save(folder / "schedule.json")
    for derived, options in [
        (interpolate(schedule, 5), [["--steps", 5], ["-ns", f"{folder}/schedule.json:5"]]),
        (repeat(schedule, 4), [["--repeat", 4], ["-ns", f"{folder}/schedule.json:x4"]]),
    ]:
        np.save(folder / "betas.npy", derived.betas)
        found = []
        for option in [["-ns", folder / "betas.npy", "--sampler", derived.sampler], *options]:
            result = run(*arguments, "-v", "yes", *option)
            assert result.returncode == 0 and f"({len(derived)} steps" in result.out, result.err
            found.append([(folder / "out" / name).read_bytes() for name in names(folder / "out")])
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
    ],
)
def test_bad_input_is_one_line_status_2_and_no_output(setup, run, change, words):
    arguments, folder = setup
    result = run(*arguments, *change(folder))
    assert result.returncode == 2
    errors = [line for line in result.err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert re.search(words, errors[0])
    assert "Traceback" not in result.err
    assert not (folder / "out").exists() or names(folder / "out") == []


def test_never_overwrites_its_own_input(setup, run, write_recording):
    arguments, folder = setup
    path = write_recording(folder / "speech.wav")
    before = path.read_bytes()
    (folder / "list.txt").write_text("speech.wav\n")
    result = run(*arguments, "-o", folder)
    assert result.returncode == 2 and "overwrite" in result.err
    assert path.read_bytes() == before


def test_clipping_is_said(setup, tiny_network, tiny_config, capsys):
    arguments, folder = setup
    vocoder = Vocoder(tiny_network, tiny_config, linear(2, 1e-3, 0.6))
    vocoder.stream = lambda mels, seed: [(0, torch.tensor([1.0] * 20 + [0.5] * 260))]
    vocode_files(vocoder, [folder / "a.npy"], [folder / "a.wav"], progress=False)
    assert "20 samples are clipped" in capsys.readouterr().err


def test_a_file_listed_twice_is_vocoded_once(setup, run):
    """In a batch, too, where both would write to one file."""
    arguments, folder = setup
    (folder / "list.txt").write_text("a.npy\n./a.npy\nb.pt\n")
    result = run(*arguments, "--batch_size", "2")
    assert result.returncode == 0 and "error" not in result.err
    assert "1 lines name a file again" in result.err
    assert names(folder / "out") == ["a.wav", "b.wav"]


def test_results_are_not_inputs_of_the_next_run(setup, run, write_recording):
    arguments, folder = setup
    write_recording(folder / "data" / "a.wav", seconds=0.2)
    for _ in range(2):
        assert run(*arguments, "-m", folder / "data", "-o", folder / "data" / "out").returncode == 0
        assert names(folder / "data") == ["a.wav", "out/a.wav"]
    (folder / "data" / "c.npy").write_bytes((folder / "c.npy").read_bytes())
    for _ in range(2):
        result = run(*arguments, "-m", folder / "data", "-o", folder / "data")
        assert result.returncode == 1 and result.err.count("error: ") == 1 and "a.wav: the result would overwrite" in result.err
        assert names(folder / "data") == ["a.wav", "c.npy", "c.wav", "out/a.wav"]


def test_recordings_in_the_folder_of_the_results_are_inputs_and_stay(setup, run, write_recording):
    arguments, folder = setup
    for name in "ab":
        write_recording(folder / "data" / name / "x.wav", seconds=0.2, seed=ord(name))
    before = (folder / "data" / "b" / "x.wav").read_bytes()
    assert run(*arguments, "-m", folder / "data", "-o", folder / "data" / "b").returncode == 0
    assert (folder / "data" / "b" / "x.wav").read_bytes() == before
    assert names(folder / "data" / "b") == ["a/x.wav", "b/x.wav", "x.wav"]


def test_a_small_file_of_a_tensor_that_fits_into_no_memory_costs_no_other(setup, run):
    arguments, folder = setup
    torch.save(torch.zeros(20, 1).expand(20, 10**12), folder / "b.pt")
    result = run(*arguments, "--batch_size", "2")
    assert result.returncode == 1 and "b.pt: " in result.err and result.err.count("error: ") == 1
    assert names(folder / "out") == ["a.wav", "c.wav"]


def test_standard_streams_may_be_closed(setup):
    """As a service manager or `>&- 2>&-` starts it."""
    arguments, folder = setup
    command = " ".join(f"'{part}'" for part in [*INFERENCE, *arguments, "-v", "yes"])
    assert run_to_end("sh", "-c", f"{command} >&- 2>&-").returncode == 0
    assert names(folder / "out") == ["a.wav", "b.wav", "c.wav"]


def test_what_cannot_be_written_does_not_stop_the_others(setup, run):
    """Names so long that the result's is too long, and a folder where a file stands."""
    arguments, folder = setup
    long_name = "n" * 250
    for suffix in (".npy", ".pt"):  # whose results are told apart by it
        (folder / (long_name + suffix)).write_bytes((folder / ("a.npy" if suffix == ".npy" else "b.pt")).read_bytes())
    (folder / "list.txt").write_text(f"a.npy\n{long_name}.npy\n{long_name}.pt\nc.npy\n")
    result = run(*arguments, "--batch_size", "4")
    assert result.returncode == 1
    assert [line for line in result.err.splitlines() if "error: " in line and "File name too long" in line] == [
        line for line in result.err.splitlines() if "error: " in line
    ]
    assert result.err.count("File name too long") == 2
    assert names(folder / "out") == ["a.wav", "c.wav"]
    (folder / "file").touch()
    refused = run(*arguments, "-o", folder / "file")
    assert refused.returncode == 2 and "Traceback" not in refused.err


def test_a_full_disk_costs_the_file_that_does_not_fit_and_no_other(setup):
    """In a process that may write no more than 50 kB to a file."""
    arguments, folder = setup
    np.save(folder / "long.npy", np.full((20, 1000), -5.0))
    (folder / "list.txt").write_text("a.npy\nlong.npy\nc.npy\n")
    limit = (50_000, 50_000)
    result = run_to_end(*INFERENCE, *arguments, "-v", "no", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert result.returncode == 1, result.stderr
    assert f"error: {folder / 'out' / 'long.wav'}: File too large" in result.stderr and "Traceback" not in result.stderr
    assert names(folder / "out") == ["a.wav", "c.wav"]


def test_names_that_are_not_utf_8_are_vocoded(setup, run):
    arguments, folder = setup
    name = "голос".encode("cp1251")
    (folder / "data").mkdir()
    (folder / "data" / os.fsdecode(name + b".npy")).write_bytes((folder / "a.npy").read_bytes())
    assert run(*arguments, "-m", folder / "data").returncode == 0
    assert os.listdir(os.fsencode(folder / "out")) == [name + b".wav"]


@pytest.fixture
def slow_jobs(setup):
    """Starts two jobs that take minutes; returns the parent and the jobs' numbers once both have begun to write."""
    arguments, folder = setup
    linear(1000, 1e-4, 0.02).save(folder / "schedule.json")
    for name in "ac":
        np.save(folder / f"{name}.npy", np.full((20, 20_000), -5.0))
    (folder / "list.txt").write_text("a.npy\nc.npy\n")
    with start(*INFERENCE, *arguments, "-v", "no", "--jobs", "2") as parent:
        wait_for(lambda: parent.poll() is not None or len(list((folder / "out").glob(".*"))) == 2)
        yield parent, children(parent.pid), folder / "out"
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
