"""Vocoding through the command line: names, seeds, batches, warnings, and bad input of every kind."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from inference import main, vocode_files
from model.audio import wav_writer
from model.config import NetworkConfig
from model.errors import run_command
from model.network import WaveGrad
from model.noise_schedule import linear
from model.output_paths import output_paths
from tests.conftest import ROOT, tiny_config_values
from vocoder import Vocoder, compiled


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


def start(arguments):
    """The command in a process of its own; returns it when it has ended."""
    command = [sys.executable, ROOT / "inference.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)


def test_jobs_give_what_one_process_gives(setup):
    """Fails if a job leaves out a file, computes another one's, or hides that one could not be used."""
    arguments, folder = setup
    for jobs in (1, 2):
        result = start([*arguments, "-v", "no", "--jobs", jobs, "-o", folder / f"jobs-{jobs}"])
        assert result.returncode == 0, result.stderr
    for name in names(folder / "jobs-1"):
        one, two = (soundfile.read(folder / f"jobs-{jobs}" / name, dtype="int16")[0] for jobs in (1, 2))
        assert np.abs(one.astype(int) - two).max() <= 1  # sums depend on how many threads share them
    assert names(folder / "jobs-2") == ["a.wav", "b.wav", "c.wav"]

    (folder / "c.npy").write_bytes(b"no mel")
    result = start([*arguments, "-v", "no", "--jobs", "2"])
    assert result.returncode == 1 and result.stderr.count("error: ") == 1
    result = start([*arguments, "--sampler", "euler", "--jobs", "2"])
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


def test_audio_files_are_resynthesised(setup, run, write_recording):
    arguments, folder = setup
    write_recording(folder / "speech.flac", seconds=0.1017)
    (folder / "list.txt").write_text("speech.flac\n")
    assert run(*arguments).returncode == 0
    assert soundfile.info(folder / "out" / "speech.wav").frames == 800


def test_stereo_is_mixed_only_on_request(setup, run, write_recording):
    arguments, folder = setup
    write_recording(folder / "stereo.wav", seconds=0.1, channels=2)
    (folder / "list.txt").write_text("stereo.wav\n")
    refused = run(*arguments)
    assert refused.returncode == 2 and "stereo.wav: 2 channels" in refused.err
    assert run(*arguments, "--mix_to_mono").returncode == 0
    assert names(folder / "out") == ["stereo.wav"]


@pytest.mark.parametrize("sampler", ["ddim", "ddim:0.5", "dpm-solver", "sde-dpm-solver"])
def test_samplers_can_be_chosen(setup, run, sampler):
    arguments, folder = setup
    assert run(*arguments, "--sampler", sampler).returncode == 0
    assert names(folder / "out") == ["a.wav", "b.wav", "c.wav"]


def test_gla_grad_corrects_what_is_written(setup, run):
    """Fails if the option does not reach the vocoder, in a batch too, or if a number that cannot be is a traceback."""
    arguments, folder = setup
    waveforms = []
    for options in (["--gla_grad", "2"], ["--gla_grad", "2", "--batch_size", "3"], []):
        assert run(*arguments, *options).returncode == 0
        waveforms.append(soundfile.read(folder / "out" / "b.wav")[0])
    assert np.abs(waveforms[0] - waveforms[1]).max() < 1e-3 < np.abs(waveforms[0] - waveforms[2]).max()
    refused = run(*arguments, "--gla_grad", "-1")
    assert refused.returncode == 2 and "--gla_grad is -1 (wanted: a whole number, 0 to" in refused.err


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
        (lambda d: ["-m", d / "none.txt"], "none.txt: No such file"),
        (lambda d: ["-m", corrupt(d / "empty.txt", b"\n")], "empty.txt: the filelist is empty"),
        (lambda d: ["-m", corrupt(d / "l.txt", b"none.npy\n")], "none.npy: No such file"),
        (lambda d: ["-m", corrupt(d / "l.txt", b"schedule.json\n")], "schedule.json: unknown kind of file"),
        (lambda d: ["-c", corrupt(d / "c.json", b"{}")], "c.json: missing key"),
        (lambda d: ["-c", ROOT / "configs" / "default.json"], "tiny.safetensors: network.factors is"),
        (lambda d: ["--sampler", "euler"], "sampler 'euler' is unknown"),
        (lambda d: ["--batch_size", "0"], "--batch_size is 0"),
        (lambda d: ["--chunk_frames", "-1"], "--chunk_frames is -1"),
        (lambda d: ["--device", "nonsense"], "--device: 'nonsense' .wanted: cpu, cuda"),
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


@pytest.mark.parametrize(
    "inputs, wanted",
    [
        (["x/a.npy", "y/b.pt"], ["a.wav", "b.wav"]),
        (["x/a.npy", "y/a.npy"], ["x/a.wav", "y/a.wav"]),
        (["x/1/a.npy", "x/2/a.npy", "x/b.npy"], ["1/a.wav", "2/a.wav", "b.wav"]),
        (["x/a.npy", "x/a.pt"], ["a.npy.wav", "a.pt.wav"]),
        (["x/a.1.npy", "x/a.2.npy"], ["a.1.wav", "a.2.wav"]),
        (["x/a.npy"], ["a.wav"]),
    ],
)
def test_no_two_inputs_share_an_output(inputs, wanted):
    assert [str(path) for path in output_paths(inputs, "out")] == [f"out/{name}" for name in wanted]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), wav_writer(tmp_path / "a.wav", 8000) as write:
        write(torch.zeros(100))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_full_scale_is_written_without_wrapping(tmp_path):
    with wav_writer(tmp_path / "a.wav", 8000) as write:
        write(torch.tensor([1.0, -1.0]))
        write(torch.tensor([0.0]))
    assert list(soundfile.read(tmp_path / "a.wav", dtype="int16")[0]) == [32767, -32767, 0]


def test_clipping_is_said(setup, tiny_network, tiny_config, capsys):
    arguments, folder = setup
    vocoder = Vocoder(tiny_network, tiny_config.mel, linear(2, 1e-3, 0.6))
    vocoder.stream = lambda mels, seed: [(0, torch.tensor([1.0] * 20 + [0.5] * 260))]
    vocode_files(vocoder, [folder / "a.npy"], [folder / "a.wav"], progress=False)
    assert "20 samples are clipped" in capsys.readouterr().err
