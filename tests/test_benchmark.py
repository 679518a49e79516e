"""benchmark.py's other commands: rtf, quality and report."""

import fcntl
import json
import re
import shutil
import subprocess
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch

import model.export
from benchmarking import rtf as real_time_factor
from benchmarking.rtf import make_variants, operations_per_sample
from benchmarking.tools.excerpts import of_each_speaker
from benchmarking.tools.live import Heard, listen
from benchmarking.tools.measuring import Measurer
from benchmarking.tools.systems import make_systems, split_sampler, titles
from benchmarking.tools.tables import markdown_table
from benchmarking.tools.textbook import textbook
from benchmarking.training import VARIANTS
from common.errors import InputError
from model.config import load_config
from model.export import main as export
from model.fast_layers import Conv1d
from model.network import WaveGrad, new_network
from model.noise_schedule import NoiseSchedule, interpolate, linear, repeat
from model.sampler import DEFAULT_SAMPLER
from tests.processes import PYTHON, run_to_end, start, wait_for
from tests.training_fixtures import write_run

ROOT = Path(__file__).parent.parent
SCHEDULES = [str(ROOT / "schedules" / f"{name}.json") for name in ("wg-3", "wg-6")]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def filelist(tmp_path, write_recording):
    for number in range(3):
        write_recording(tmp_path / f"recording {number}.wav", seconds=1.0 + 0.2 * number, seed=number)
    (tmp_path / "list.txt").write_text("recording 0.wav\nrecording 1.wav\nrecording 2.wav\n")
    return tmp_path / "list.txt"


@pytest.fixture
def quality(command, tiny_checkpoint, filelist, tmp_path):
    """quality(*arguments): status of `quality` with two schedules and all metrics that take no model."""

    def run(*arguments):
        return command(
            "quality", "-ch", tiny_checkpoint, "--filelist", filelist, "-o", tmp_path / "quality", "--audio", 2,
            "--schedules", SCHEDULES[0], f"{SCHEDULES[1]}@ddim", "--jobs", 1,
            "--metrics", "stoi", "mcd", "log_mel_l1", "m_stft", *arguments,
        )  # fmt: skip

    return run


@pytest.fixture
def no_peak(monkeypatch):
    """The peak of the machine is not measured: that takes seconds."""
    monkeypatch.setattr(real_time_factor, "matmul_peak", lambda *_: 1e11)


def test_real_time_factors(command, tiny_checkpoint, filelist, tmp_path, capsys, no_peak):
    """Fails if a variant, batch size or number of steps is left out, or a file is not timed."""
    status = command(
        "rtf", "-ch", tiny_checkpoint, "--filelist", filelist, "--steps", 1, 3, "--batch_sizes", 1, 2, "--repeats", 2,
        "--variants", "plain", "float32", "--start_up", "-o", tmp_path / "rtf.json",
    )  # fmt: skip
    assert status == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "rtf.json").read_text())
    results = content["results"]
    found = [(result["variant"], result["batch_size"], result["steps"]) for result in results]
    assert found == [(name, *sizes) for sizes in [(1, 1), (1, 3), (2, 1), (2, 3)] for name in ("plain", "float32")]
    assert [result["n_timings"] for result in results] == [6, 6, 6, 6, 2, 2, 2, 2]
    assert all(result["real_time_factor"] > 0 and result["peak_memory_bytes"] > 1e6 for result in results)
    assert [result["speed_ratio"] for result in results if result["variant"] == "plain"] == [1.0] * 4
    assert all(0 < result["share_of_peak"] < 1.5 for result in results)
    assert content["start_to_finish_seconds"] > 0
    assert "real-time factor" in (tmp_path / "rtf.md").read_text()


def test_what_cannot_be_timed_or_written_is_said_at_the_start(command, tiny_checkpoint, filelist, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(real_time_factor, "measure", lambda *_: pytest.fail("measured"))
    arguments = ["rtf", "-ch", tiny_checkpoint, "--filelist", filelist]
    (tmp_path / "folder.json").mkdir()
    for output, said in {
        "none/rtf": "none: No such folder",
        "list.txt/rtf": "list.txt: No such folder",
        "folder": "folder.json: cannot be",
    }.items():
        assert command(*arguments, "-o", tmp_path / output) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error
    content = filelist.read_bytes()
    filelist.rename(tmp_path / "list.json")
    assert command("rtf", "-ch", tiny_checkpoint, "--filelist", tmp_path / "list.json", "-o", tmp_path / "list") == 2
    assert "list.json: the result would overwrite" in capsys.readouterr().err and (tmp_path / "list.json").read_bytes() == content
    (tmp_path / "list.json").rename(filelist)
    assert command(*arguments, "--onnx", filelist) == 2
    assert "list.txt: not a network" in capsys.readouterr().err


def test_another_networks_onnx_file_is_refused(tiny_config, tiny_network, monkeypatch):
    other = tiny_config.model_copy(update={"mel": tiny_config.mel.model_copy(update={"f_min": 10.0})})
    monkeypatch.setattr(model.export, "OnnxNetwork", lambda path, n_threads: types.SimpleNamespace(config=other))
    arguments = types.SimpleNamespace(sampler="ddim", onnx="a.onnx", threads=None)
    with pytest.raises(InputError, match="a.onnx: another network"):
        make_variants(["onnx"], tiny_network, tiny_config, arguments, torch.device("cpu"))


def test_an_animation_says_at_the_start_what_it_cannot_write(command, tiny_checkpoint, filelist, tmp_path, capsys):
    arguments = ["animation", "-ch", tiny_checkpoint, "-ns", SCHEDULES[0], "-r", tmp_path / "short.wav"]
    assert command(*arguments, "-o", tmp_path / "none" / "a.gif") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: No such folder\n"
    soundfile.write(tmp_path / "short.wav", np.zeros(50), 8000)
    assert command(*arguments, "-o", tmp_path / "a.gif") == 2
    assert "short.wav: 50 samples are too short" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", ["heun", "ddim:0.5"])
def test_real_time_factor_of_a_configuration_and_a_length(command, filelist, tiny_config, tmp_path, capsys, sampler, no_peak):
    """Fails if a network without a checkpoint, a given length or a sampler cannot be timed."""
    (tmp_path / "config.json").write_text(tiny_config.model_dump_json())
    arguments = ["rtf", "-c", tmp_path / "config.json", "--filelist", filelist, "--lengths", 2, 3, "--steps", 2, "--repeats", 1]
    assert command(*arguments, "--sampler", sampler, "-o", tmp_path / "rtf") == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "rtf.json").read_text())["results"]
    assert {round(result["audio_seconds"], 1) for result in results} == {2.0, 3.0}


def test_networks_side_by_side(command, tiny_checkpoint, tiny_config, filelist, tmp_path, capsys, no_peak):
    """Fails if a case has the network, steps or schedule of another one, or is not compared with the first."""
    (tmp_path / "config.json").write_text(tiny_config.model_dump_json())
    (tmp_path / "one.json").write_text('{"betas": [0.1], "griffin_lim": 3}')
    cases = [f"{tmp_path / 'config.json'}:plain:6", f"{tiny_checkpoint}:float32:{tmp_path / 'one.json'}+2"]
    arguments = ["rtf", "--filelist", filelist, "--repeats", 2, "-o", tmp_path / "rtf", "--cases"]
    assert command(*arguments, *cases) == 0, capsys.readouterr().err
    first, second = json.loads((tmp_path / "rtf.json").read_text())["results"]
    found = [(result["steps"], result["griffin_lim"], result["gla_grad"]) for result in (first, second)]
    assert found == [(6, None, 0), (1, 3, 2)]
    assert first["parameters"] == second["parameters"] == sum(p.numel() for p in new_network(tiny_config).parameters())
    assert first["speed_ratio"] == 1 != second["speed_ratio"] > 0 and first["n_timings"] == 6
    for case in ("a.json", f"{cases[0][:-2]}", f"{tiny_checkpoint}:fast:6"):
        assert command(*arguments, case) == 2
        assert "no case (wanted: NETWORK:VARIANT:STEPS" in capsys.readouterr().err
    assert command(*arguments, f"{tiny_checkpoint}:float32:0") == 2
    assert "0: no noise schedule" in capsys.readouterr().err


def test_a_graph_beside_the_network(command, tiny_checkpoint, filelist, tmp_path, capsys):
    """Fails if the graph of a whole synthesis cannot be timed beside PyTorch's."""
    graph = tmp_path / "graph.onnx"
    assert export(["-ns", "linear:2:1e-3:0.5", str(tiny_checkpoint), str(graph)]) == 0
    arguments = ["rtf", "--filelist", filelist, "--repeats", 1, "-o", tmp_path / "rtf", "--cases"]
    assert command(*arguments, f"{tiny_checkpoint}:float32:2", graph) == 0, capsys.readouterr().err
    first, second = json.loads((tmp_path / "rtf.json").read_text())["results"]
    assert (second["case"], second["steps"], second["parameters"]) == (str(graph), 2, None) and second["real_time_factor"] > 0
    assert command(*arguments, tiny_checkpoint.with_suffix(".onnx")) == 2
    assert "not a synthesis written by model.export" in capsys.readouterr().err


def test_what_is_heard_of_a_stream():
    """A frame is 1 s, its window a second longer. Fails if frames are there before they have arrived, or a late piece is no gap."""
    mel, now, calls = torch.zeros(20, 6), [0.0], []
    mel_transform = SimpleNamespace(config=SimpleNamespace(sample_rate=10, hop_length=10), context=(0, 10))
    seconds = iter([0.5, 0.25, 0.5, 3.0, 0.5, 0.5])
    samples = iter([0, 0, 10, 10, 10, 30])

    def push(frames, last):
        calls.append((frames.shape[1], last))
        now[0] += next(seconds)
        return torch.zeros(next(samples))

    heard = listen(push, mel, 1, mel_transform, clock=lambda: now[0])
    assert calls == [(1, False)] * 5 + [(1, True)]
    # First at 4.5 s; the next is done at 8 s and due at 5.5 s; the one after is done at 8.5 s and due at 9 s.
    assert heard == Heard(first=4.5, gap=2.5, computing=5.25)


@pytest.mark.parametrize("piece, latency", [(1, 0), (1, 7), (4, 7), (8, 3), (30, 7)])
def test_a_machine_that_is_fast_enough_is_heard_without_a_gap(piece, latency):
    """Fails if playing begins with so little that the next piece cannot be there in time."""
    received, given = [0], [0]

    def push(frames, last):
        received[0] += frames.shape[1]
        ready = received[0] if last else max(received[0] - latency, given[0])
        given[0], new = ready, ready - given[0]
        return torch.zeros(10 * new)

    mel_transform = SimpleNamespace(config=SimpleNamespace(sample_rate=10, hop_length=10), context=(0, 0))
    heard = listen(push, torch.zeros(20, 50), piece, mel_transform, clock=lambda: 0.0)
    assert heard.gap == pytest.approx(0, abs=1e-9) and latency < heard.first <= latency + 2 * piece


def test_streaming_side_by_side(command, tiny_checkpoint, filelist, tmp_path, capsys):
    case = f"{tiny_checkpoint}:float32:2"
    arguments = ["rtf", "--filelist", filelist, "--repeats", 1, "-o", tmp_path / "rtf", "--streaming", 1, 20]
    assert command(*arguments, "--cases", case, f"{case}+2") == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "rtf.json").read_text())["results"]
    assert [(result["case"], result["piece_frames"]) for result in results] == [(case, 1), (case, 20), (f"{case}+2", 1), (f"{case}+2", 20)]
    for result in results:
        assert result["first_audio_seconds"] > result["latency_seconds"] and 0 < result["computing_share"]
    assert results[2]["latency_seconds"] - results[0]["latency_seconds"] == pytest.approx(2 * 4 * 40 / 8000)
    assert command(*arguments, "-ch", tiny_checkpoint) == 2 and "--streaming needs --cases" in capsys.readouterr().err
    assert command(*arguments, "--cases", f"{tiny_checkpoint}:plain:2") == 2 and "no plain variant" in capsys.readouterr().err


def test_plain_network_is_the_same_network():
    """Fails if the baseline of the speed figures computes something else, or saves operations as ours does."""
    config = load_config(ROOT / "configs" / "default.json")
    small = config.network.model_copy(
        update={
            "upsampling_preconv_channels": 12,
            "upsampling_channels": [10, 8, 8, 6, 4],
            "downsampling_preconv_channels": 4,
            "downsampling_channels": [6, 6, 8, 8],
        }
    )
    torch.manual_seed(0)
    config = config.model_copy(update={"network": small})
    network = WaveGrad(small, 80)
    plain = textbook(network, config)
    y, mel, noise_level = torch.randn(2, 3000), torch.randn(2, 80, 10), torch.rand(2, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(plain(y, mel, noise_level), network(y, mel, noise_level), atol=1e-4, rtol=1e-4)
    assert operations_per_sample(plain, 80) > operations_per_sample(network, 80)


@pytest.mark.parametrize("device, dtype", [("meta", torch.float32), ("cpu", torch.float64)])
def test_the_textbook_network_is_where_the_network_is(tiny_network, tiny_config, device, dtype):
    """Fails if the baseline of a network on a GPU has weights on the CPU, or of another precision."""
    plain = textbook(tiny_network.to(device, dtype), tiny_config)
    assert {(parameter.device.type, parameter.dtype) for parameter in plain.parameters()} == {(device, dtype)}


def test_profile_shows_every_convolution(command, tiny_config, tiny_network, tmp_path, capsys):
    """Fails if a convolution is left out, or its multiply-adds are not those that PyTorch counts."""
    (tmp_path / "config.json").write_text(tiny_config.model_dump_json())
    assert command("profile", "-c", tmp_path / "config.json", "--frames", 20, "--repeats", 2) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if "taps" in line]
    assert len(lines) == sum(isinstance(module, Conv1d) for module in tiny_network.modules())
    thousands = sum(float(line[4]) for line in lines)
    n_mels = tiny_config.mel.n_mels
    assert 2000 * thousands == pytest.approx(operations_per_sample(tiny_network, n_mels), rel=0.02, abs=200)


def test_quality_measures_every_system_and_remembers(quality, tmp_path, capsys, monkeypatch):
    assert quality() == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "quality" / "quality.json").read_text())
    rows = {row["system"]: row for row in content["rows"]}
    assert list(rows) == ["recording", "griffin-lim-32", "wg-3 sde-dpm-solver", "wg-6 ddim"]
    assert [row["network_calls"] for row in rows.values()] == [0, 0, 3, 6]
    assert rows["recording"]["means"]["mcd"] == pytest.approx(0, abs=1e-6)
    assert rows["griffin-lim-32"]["means"]["log_mel_l1"] < rows["wg-3 sde-dpm-solver"]["means"]["log_mel_l1"]
    table = (tmp_path / "quality" / "quality.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n") == 6

    # What is in the journal is not measured again.
    monkeypatch.setattr(Measurer, "__call__", lambda self, task: pytest.fail("measured again"))
    before = (tmp_path / "quality" / "quality.json").read_bytes()
    assert quality() == 0
    assert (tmp_path / "quality" / "quality.json").read_bytes() == before


def test_the_audio_is_that_of_the_present_schedule(quality, tmp_path, capsys):
    """Fails if a schedule file that is changed and changed back leaves the audio of the change beside the figures of the first."""
    path, heard = tmp_path / "edited.json", []
    for level in (0.3, 0.6, 0.3):
        NoiseSchedule([1e-3, level], "edited", sampler="ddim").save(path)
        assert quality("--schedules", path, "--metrics", "mcd") == 0, capsys.readouterr().err
        heard.append([audio.read_bytes() for audio in sorted((tmp_path / "quality").rglob("edited*.flac"))])
    assert len(heard[0]) == 2 and heard[0] == heard[2] != heard[1]


def test_a_metric_that_cannot_judge_a_recording_counts_in_no_mean(quality, tmp_path, write_recording, capsys):
    """Of a recording of 0.3 s STOI has no value, of one of 50 ms M-STFT has none: starred, as PESQ's are."""
    for name, seconds in {"short": 0.3, "tiny": 0.05}.items():
        write_recording(tmp_path / f"{name}.wav", seconds=seconds)
    (tmp_path / "list.txt").write_text("recording 0.wav\nshort.wav\ntiny.wav\n")
    assert quality("--schedules", SCHEDULES[0], "--metrics", "stoi", "m_stft", "mcd") == 0, capsys.readouterr().err
    row = json.loads((tmp_path / "quality" / "quality.json").read_text())["rows"][0]
    assert row["means"] == {"stoi": pytest.approx(1, abs=1e-4), "m_stft": 0, "mcd": 0}
    assert row["without_value"] == {"stoi": 2, "m_stft": 1, "mcd": 0}
    line = (tmp_path / "quality" / "quality.md").read_text().splitlines()[2]
    assert [cell.strip() for cell in line.split("|")[4:7]] == ["1.000*", "0.000*", "0.000"]
    assert "\\* the mean of fewer recordings" in (tmp_path / "quality" / "quality.md").read_text()

    (tmp_path / "list.txt").write_text("tiny.wav\n")
    assert quality("-o", tmp_path / "of none", "--schedules", SCHEDULES[0], "--metrics", "stoi") == 0
    row = json.loads((tmp_path / "of none" / "quality.json").read_text())["rows"][0]
    assert row["means"]["stoi"] is None and row["without_value"]["stoi"] == 1


def test_a_waveform_that_is_not_finite_has_no_figures_and_no_audio(quality, command, tmp_path, capsys):
    """What else is asked for is measured, the same command measures nothing again, and the page shows the rest."""
    NoiseSchedule([1e-20, 1e-20], "broken", sampler="ddim").save(tmp_path / "broken.json")
    for _ in range(2):
        assert quality("--schedules", tmp_path / "broken.json", SCHEDULES[0], "--gla_grad", 0, 2) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        wanted = "the waveform of recording 0, recording 1, recording 2 holds NaN or infinity"
        assert lines == [f"warning: broken ddim{end}: {wanted}" for end in ("", " gla-grad-2")]
        assert (tmp_path / "quality" / "journal.jsonl").read_text().count("\n") == 1 + 3 * 7
    rows = {row["system"]: row for row in json.loads((tmp_path / "quality" / "quality.json").read_text())["rows"]}
    assert set(rows["broken ddim"]["means"].values()) == {None} and rows["broken ddim"]["without_value"]["mcd"] == 3
    assert None not in rows["wg-3 sde-dpm-solver"]["means"].values()
    assert not list((tmp_path / "quality").rglob("broken*")) and len(list((tmp_path / "quality").rglob("*.flac"))) == 2 * 5
    assert command("report", tmp_path / "quality", "-o", tmp_path / "report") == 0, capsys.readouterr().err
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("No audio: the waveform holds NaN or infinity") == 2 * 2 and page.count("<audio") == 2 * 5


def test_one_waveform_that_is_not_finite_counts_in_no_mean(quality, tmp_path, capsys, monkeypatch):
    sample = Measurer.sample

    def broken(self, system, index):
        waveform, seconds = sample(self, system, index)
        return (waveform * float("nan") if system.name.startswith("wg-3") and index == 1 else waveform), seconds

    monkeypatch.setattr(Measurer, "sample", broken)
    assert quality("--metrics", "mcd") == 0
    assert "warning: wg-3 sde-dpm-solver: the waveform of recording 1 holds NaN or infinity\n" in capsys.readouterr().err
    row = json.loads((tmp_path / "quality" / "quality.json").read_text())["rows"][2]
    assert row["without_value"] == {"mcd": 1} and np.isfinite(row["means"]["mcd"])
    assert [path.parent.name for path in (tmp_path / "quality").rglob("wg-3*.flac")] == ["recording 0"]


def test_a_short_recording_shortens_no_other_one(quality, tmp_path, capsys):
    """And where there is no terminal, progress is whole lines, at most ten of them."""
    assert quality("--seconds", 1.3, "--audio", 3) == 0
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "note: 2 of 3 recordings are shorter than 1.3 s, and taken whole: recording 0, recording 1"
    assert all(re.fullmatch(r"\d+ of 12 waveforms, \d+ s", line) for line in error[1:]), error
    assert error[-1].startswith("12 of 12 ") and 5 < len(error) <= 11
    audio = tmp_path / "quality" / "audio"
    seconds = [soundfile.info(audio / f"recording {n}" / "griffin-lim-32.flac").duration for n in range(3)]
    assert seconds == pytest.approx([1.0, 1.2, 1.3], abs=0.005)


def test_a_second_measurement_in_the_same_folder_is_refused(quality, tmp_path, capsys):
    assert quality("--schedules", SCHEDULES[0], "--metrics", "mcd") == 0
    path = tmp_path / "quality" / "journal.jsonl"
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        capsys.readouterr()
        assert quality("--schedules", SCHEDULES[0], "--metrics", "mcd") == 2
    assert capsys.readouterr().err == f"error: {path}: in use by another process (wanted: another output, or wait for it)\n"


def test_a_journal_without_a_metric_is_refused(quality, tmp_path, capsys):
    assert quality("--schedules", SCHEDULES[0], "--metrics", "mcd") == 0
    path = tmp_path / "quality" / "journal.jsonl"
    path.write_text(path.read_text().replace('"figures": {"mcd"', '"figures": {"dcm"'))
    capsys.readouterr()
    assert quality("--schedules", SCHEDULES[0], "--metrics", "mcd") == 2
    assert capsys.readouterr().err == f"error: {path}: line 2: missing key 'figures.mcd'\n"


def test_a_terminated_measurement_leaves_whole_files(quality, tiny_checkpoint, filelist, tmp_path, capsys):
    """Killed with all its processes: what is there is whole, what is in the journal has its audio, and no process stays."""
    folder = tmp_path / "quality"
    arguments = ["-ch", tiny_checkpoint, "--filelist", filelist, "-o", folder, "--audio", 2, "--schedules", *SCHEDULES]
    command = [PYTHON, "benchmark.py", "quality", *arguments, "--metrics", "ffe", "--jobs", 2]
    process = start(*command, stderr=subprocess.STDOUT)
    journal = folder / "journal.jsonl"
    try:
        wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1)
        process.terminate()
        said, _ = process.communicate(timeout=200)  # ends when no process has the pipe open any more
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in said
    assert not list(tmp_path.rglob(".*")) and not (folder / "quality.json").exists()
    for path in folder.rglob("*.flac"):
        assert len(soundfile.read(path)[0]) in (8000, 9600)
    entries = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert 0 < len(entries) < 12
    sounds = {path.parent.name for path in folder.rglob("*.flac")}
    assert sounds >= {entry["recording"] for entry in entries} - {"recording 2"}


def test_quality_is_the_same_for_any_number_of_processes(quality, tmp_path, capsys):
    figures = []
    for jobs in (1, 2):
        assert quality("-o", tmp_path / f"jobs-{jobs}", "--jobs", jobs) == 0, capsys.readouterr().err
        entries = (tmp_path / f"jobs-{jobs}" / "journal.jsonl").read_text().splitlines()[1:]
        figures.append([json.loads(entry)["figures"] for entry in entries])
    assert figures[0] == figures[1]


def test_griffin_lim_in_other_numbers_of_iterations(quality, tmp_path, capsys):
    """Fails if one number of iterations goes for another, in the journal or in the audio, or 0 are some."""
    for n_iter, rows in {1: ["griffin-lim-1"], 8: ["griffin-lim-8"], 0: []}.items():
        assert quality("--schedules", SCHEDULES[0], "--griffin_lim", n_iter) == 0, capsys.readouterr().err
        content = json.loads((tmp_path / "quality" / "quality.json").read_text())
        assert [row["system"] for row in content["rows"]] == ["recording", *rows, "wg-3 sde-dpm-solver"]
    entries = [json.loads(line) for line in (tmp_path / "quality" / "journal.jsonl").read_text().splitlines()[1:]]
    assert len(entries) == 3 * 4
    convergence = {n: [entry["figures"]["m_stft"] for entry in entries if entry["key"] == f"griffin-lim-{n}"] for n in (1, 8)}
    assert np.mean(convergence[8]) < np.mean(convergence[1])


@pytest.fixture
def speakers(tmp_path, write_recording):
    """A filelist of three recordings of two speakers, two of the same file name."""
    for number, name in enumerate(("anna/1", "boris/1", "anna/2")):
        write_recording(tmp_path / f"{name}.wav", seconds=1.0, seed=number)
    (tmp_path / "list.txt").write_text("anna/1.wav\nboris/1.wav\nanna/2.wav\n")


def test_means_of_each_speaker(quality, command, speakers, tmp_path, capsys):
    """Fails if a mean is over other recordings than those of the speaker, or recordings of the same file name are mixed up."""
    assert quality("--audio", 3) == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "quality" / "quality.json").read_text())
    entries = [json.loads(line) for line in (tmp_path / "quality" / "journal.jsonl").read_text().splitlines()[1:]]
    assert {entry["recording"] for entry in entries} == {"anna/1", "boris/1", "anna/2"}
    assert [(one["speaker"], one["n_recordings"]) for one in content["speakers"]] == [("anna", 2), ("boris", 1)]
    of_system = {row["system"]: [one["rows"][index]["means"] for one in content["speakers"]] for index, row in enumerate(content["rows"])}
    for name in ("griffin-lim-32", "recording"):
        for speaker, means in zip(("anna", "boris"), of_system[name]):
            own = [entry for entry in entries if entry["key"] == name and entry["recording"].startswith(speaker)]
            assert means["mcd"] == pytest.approx(np.mean([entry["figures"]["mcd"] for entry in own]))

    text = (tmp_path / "quality" / "quality.md").read_text()
    assert "2 speakers; the fewest recordings, 1, are of boris" in text and "\nSpeaker anna, recordings: 2\n" in text
    worst = next(line for line in text.split("The worst mean")[1].splitlines() if line.startswith("| griffin-lim-32"))
    values = of_system["griffin-lim-32"]
    for cell, (metric, choose) in zip(worst.split("|")[2:], {"stoi": min, "mcd": max}.items()):
        value, speaker = choose((means[metric], speaker) for means, speaker in zip(values, ("anna", "boris")))
        assert cell.strip() == f"{value:.3f} {speaker}"

    assert len(list((tmp_path / "quality" / "audio" / "anna" / "2").glob("*.flac"))) == 4
    assert command("report", tmp_path / "quality", "-o", tmp_path / "report") == 0, capsys.readouterr().err
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<audio") == 3 * 4 and (tmp_path / "report" / "pictures" / "boris" / "1" / "recording.png").is_file()
    assert "anna, 2 recordings" in page and page.index("<audio") < page.index("<table") < page.index("<details>")


def test_a_report_leaves_out_recordings_that_are_not_to_be_published(quality, command, speakers, tmp_path, capsys):
    assert quality("--audio", 3) == 0, capsys.readouterr().err
    assert command("report", tmp_path / "quality", "-o", tmp_path / "report", "--only_mel_of", "anna") == 0, capsys.readouterr().err
    published = {path.parent.relative_to(tmp_path / "report" / "audio") for path in (tmp_path / "report").rglob("recording.flac")}
    assert published == {Path("boris/1")}
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<audio") == 3 * 4 - 2 and page.count("not published") == 2 and page.count("<img") == 2 + 3 * 4
    capsys.readouterr()
    assert command("report", tmp_path / "quality", "-o", tmp_path / "other", "--only_mel_of", "carla") == 2
    assert (
        "--only_mel_of 'carla': no recording with audio is of that speaker (wanted: one of anna, boris)" in capsys.readouterr().err
        and not (tmp_path / "other").exists()
    )


def test_a_recording_that_is_not_to_be_published_leaves_an_earlier_report(quality, command, speakers, tmp_path, capsys):
    assert quality("--audio", 3) == 0, capsys.readouterr().err
    folder, report = tmp_path / "quality", tmp_path / "report"
    for options in ((), ("--only_mel_of", "anna")):
        assert command("report", folder, "-o", report, *options) == 0, capsys.readouterr().err
    assert [path.parent.parent.name for path in report.rglob("recording.flac")] == ["boris"]
    assert command("report", folder, "-o", folder, "--only_mel_of", "anna") == 2
    assert (
        "holds the recordings that --only_mel_of leaves out" in capsys.readouterr().err and len(list(folder.rglob("recording.flac"))) == 3
    )


def test_a_report_has_audio_of_the_systems_that_are_asked_for(quality, command, tmp_path, capsys):
    assert quality() == 0
    assert command("report", tmp_path / "quality", "-o", tmp_path / "report", "--audio_of", "recording", "griffin-lim-32") == 0
    assert {path.stem for path in (tmp_path / "report").rglob("*.flac")} == {"recording", "griffin-lim-32"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<audio") == 2 * 2 and page.count("WaveGrad, 3 steps") == 1
    capsys.readouterr()
    assert command("report", tmp_path / "quality", "-o", tmp_path / "other", "--audio_of", "wg-4") == 2
    assert "--audio_of 'wg-4': no such system" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_as_many_recordings_of_each_speaker(quality, speakers, tmp_path, capsys):
    """Fails if a speaker of many recordings has more of them, or the first recordings, whose audio is kept, are of one speaker."""
    assert quality("--per_speaker", "--recordings", 1, "--metrics", "mcd") == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "quality" / "quality.json").read_text())
    assert [(one["speaker"], one["recording"]) for one in content["examples"]] == [("anna", "anna/1"), ("boris", "boris/1")]


def test_speakers_take_turns():
    speakers = ["a"] * 5 + ["b"] * 2 + ["c"] * 3
    assert of_each_speaker(speakers, 3) == [0, 5, 7, 2, 6, 8, 4, 9]
    assert of_each_speaker(speakers, 10) == [0, 5, 7, 1, 6, 8, 2, 9, 3, 4]


def test_titles_say_what_a_system_is():
    """And where two would have the same title, the systems' names tell them apart."""
    systems = make_systems([SCHEDULES[0], "linear:3:0.1:0.5", "linear:1:0.5:0.5"], [None], [0, 8])
    shown = titles(systems)
    assert shown[:3] == ["recording", "Griffin-Lim, 32 iterations", "noise, GLA-Grad 8"]
    assert shown[3].startswith("WaveGrad, 3 steps (wg-3 ") and shown[5].startswith("WaveGrad, 3 steps (linear-3-0.1-0.5 ")
    assert shown[-2:] == ["WaveGrad, 1 step", "WaveGrad, 1 step, GLA-Grad 8"]


def test_recordings_of_another_rate_are_converted_on_request(quality, write_recording, tmp_path, capsys):
    """Fails if they are measured at their own rate, or converted without being asked for."""
    write_recording(tmp_path / "16k" / "a.wav", seconds=1.0, sample_rate=16000)
    options = ["--filelist", tmp_path / "16k", "--schedules", SCHEDULES[0], "--metrics", "mcd", "--griffin_lim", 0]
    assert quality(*options) == 2 and "sample rate is 16000 Hz (wanted: 8000 Hz; --resample" in capsys.readouterr().err
    assert quality(*options, "--resample") == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "quality" / "quality.json").read_text())["audio_seconds"] == pytest.approx(1.0, abs=0.01)


def test_one_speaker_has_no_table(quality, tmp_path):
    assert quality("--schedules", SCHEDULES[0], "--metrics", "mcd") == 0
    assert json.loads((tmp_path / "quality" / "quality.json").read_text())["speakers"] == []
    assert "peaker" not in (tmp_path / "quality" / "quality.md").read_text()


def test_a_speaker_whose_recordings_have_no_value(quality, speakers, write_recording, tmp_path, capsys):
    """Fails if he is the worst, or what has no value at all is an error."""
    write_recording(tmp_path / "boris" / "1.wav", seconds=0.05)
    assert quality("--schedules", SCHEDULES[0], "--metrics", "m_stft", "stoi") == 0, capsys.readouterr().err
    table = (tmp_path / "quality" / "quality.md").read_text().split("The worst mean")[1]
    cells = next(line for line in table.splitlines() if line.startswith("| recording")).split("|")
    assert [cell.strip() for cell in cells[2:4]] == ["0.000 anna", "1.000 anna"]


def test_a_recording_that_is_listed_twice_is_refused(quality, speakers, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("anna/1.wav\nboris/1.wav\nanna/1.wav\n")
    assert quality() == 2
    assert "list.txt: 2 recordings are anna/1 (wanted: other file names, " in capsys.readouterr().err


def test_slow_metrics_are_measured_when_they_are_asked_for(command, capsys, monkeypatch):
    """Fails if a plain command takes several times as long as the audio, or its help does not say which metrics would."""
    monkeypatch.setattr("benchmarking.quality.run", lambda arguments: print(*arguments.metrics) or 0)
    assert command("quality", "-ch", "a", "-o", "b", "--filelist", "c", "--schedules", "d") == 0
    metrics = capsys.readouterr().out.split()
    assert {"pesq", "m_stft", "distillmos"} < set(metrics) and not {"periodicity", "vuv_f1"} & set(metrics)
    assert command("quality", "--help") == 0
    assert "all but periodicity and vuv_f1" in " ".join(capsys.readouterr().out.split())


def test_other_settings_do_not_mix(quality, tmp_path, capsys):
    assert quality() == 0
    assert quality("--seed", 1) == 2
    assert "journal of another run, its seed is 0 (wanted: 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, path, sampler",
    [
        ("a.json", "a.json", None),
        ("a.json@ddim:0.5", "a.json", "ddim:0.5"),
        ("me@home/a.json", "me@home/a.json", None),
        ("me@home/a.npy@heun", "me@home/a.npy", "heun"),
        ("a@1.json", "a@1.json", None),
        ("old.json@home/a.pt", "old.json@home/a.pt", None),
        ("a.json@", "a.json", ""),
        ("a.json:25@heun", "a.json:25", "heun"),
        ("me@home/a.json:x2", "me@home/a.json:x2", None),
        ("a@1.JSON:25", "a@1.JSON:25", None),
        ("linear:50:1e-6:0.01@ddim:0.5", "linear:50:1e-6:0.01", "ddim:0.5"),
    ],
)
def test_an_at_sign_in_a_path_names_no_sampler(text, path, sampler):
    assert split_sampler(text) == (path, sampler)


def test_systems_by_the_same_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="asked for twice"):
        make_systems(SCHEDULES[:1] * 2, ["ancestral"])
    NoiseSchedule([0.1, 0.5], "a b").save(tmp_path / "a.json")
    NoiseSchedule([0.1, 0.6], "a-b").save(tmp_path / "b.json")
    with pytest.raises(InputError, match="'a-b ddim' is asked for twice"):  # one file of audio
        make_systems([f"{tmp_path}/a.json", f"{tmp_path}/b.json"], ["ddim"])
    with pytest.raises(InputError, match="'euler' is unknown"):
        make_systems([f"{SCHEDULES[0]}@euler"], ["ancestral"])


def test_schedules_go_with_the_sampler_that_they_were_made_for(tmp_path):
    """Fails if a table has a schedule with another sampler than `inference.py` would use."""
    NoiseSchedule([0.01, 0.5], "made-for-ddim", sampler="ddim").save(tmp_path / "a.json")
    found = make_systems([f"{tmp_path}/a.json", SCHEDULES[0]], [None])[2:]
    assert [system.name for system in found] == ["made-for-ddim ddim", f"wg-3 {DEFAULT_SAMPLER}"]
    assert [system.sampler for system in make_systems([f"{tmp_path}/a.json@heun"], [None])[2:]] == ["heun"]


def test_schedules_of_each_form_are_systems(tmp_path):
    """Fails if a derived schedule is another one than Python's, or has not the sampler for its number of steps."""
    schedule = NoiseSchedule(linear(6, 1e-3, 0.6).betas, "six", "", "ddim", "ancestral")
    schedule.save(tmp_path / "six.json")
    texts = [f"{tmp_path}/six.json:3", f"{tmp_path}/six.json:x2", f"{tmp_path}/six.json:12@heun", "linear:50:1e-6:0.01"]
    found = make_systems(texts, [None])[2:]
    names = ["six-in-3 ddim", "six-x2 ancestral", "six-in-12 heun", f"linear-50-1e-06-0.01 {DEFAULT_SAMPLER}"]
    assert [system.name for system in found] == names
    wanted = [interpolate(schedule, 3), repeat(schedule, 2), interpolate(schedule, 12), linear(50, 1e-6, 0.01)]
    assert all(np.array_equal(system.schedule.betas, of.betas) for system, of in zip(found, wanted))


@pytest.mark.parametrize("text", ["none.json:3", "linear:50:1e-6@ddim", "six.json", "linear:3:0.1:0.5:0@ddim"])
def test_what_is_no_schedule_is_said_in_one_line(quality, capsys, text):
    assert quality("--schedules", text) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and text.partition("@")[0].removesuffix(":3") in error


def test_results_with_and_without_correction(quality, tmp_path, capsys, monkeypatch):
    """Each with its own name, of one sampling, and noise that was corrected beside them: what the correction does alone."""
    sampled, sample = [], Measurer.sample
    monkeypatch.setattr(Measurer, "sample", lambda self, *task: sampled.append(task) or sample(self, *task))
    assert quality("--gla_grad", 0, 2, "--jobs", 1) == 0, capsys.readouterr().err
    assert len(sampled) == 5 * len({index for _, index in sampled})  # not 7, as many as there are rows
    rows = {row["system"]: row for row in json.loads((tmp_path / "quality" / "quality.json").read_text())["rows"]}
    with_samplers = ["wg-3 sde-dpm-solver", "wg-6 ddim"]
    of_schedules = [name + end for name in with_samplers for end in ("", " gla-grad-2")]
    assert list(rows) == ["recording", "griffin-lim-32", "noise gla-grad-2", *of_schedules]
    assert rows["noise gla-grad-2"]["network_calls"] == 0 and rows["wg-6 ddim gla-grad-2"]["network_calls"] == 6
    for name in with_samplers:
        plain, corrected = (rows[name + end] for end in ("", " gla-grad-2"))
        assert corrected["means"]["log_mel_l1"] < 0.5 * plain["means"]["log_mel_l1"]
    with pytest.raises(InputError, match="--gla_grad is -1"):
        make_systems(SCHEDULES, [None], [-1])


def test_what_an_estimate_is_without_the_network(quality, tmp_path, capsys):
    """Fails if the start of a schedule is no system beside it, or schedules that differ in their start alone share results."""
    for n_iter in (0, 6):
        NoiseSchedule([0.2], f"from-{n_iter}", sampler="ddim", griffin_lim=n_iter).save(tmp_path / f"{n_iter}.json")
    schedules = [tmp_path / "0.json", tmp_path / "6.json"]
    assert quality("--gla_grad", 0, 2, "--griffin_lim", 0, "--metrics", "log_mel_l1", "--schedules", *schedules) == 0, (
        capsys.readouterr().err
    )
    rows = {row["system"]: row for row in json.loads((tmp_path / "quality" / "quality.json").read_text())["rows"]}
    estimates = [f"estimate-{n_iter}{end}" for n_iter in (0, 6) for end in ("", " gla-grad-2")]
    assert list(rows) == [
        "recording",
        "noise gla-grad-2",
        *estimates,
        *(f"from-{n} ddim{end}" for n in (0, 6) for end in ("", " gla-grad-2")),
    ]
    means = {name: row["means"]["log_mel_l1"] for name, row in rows.items()}
    assert means["estimate-6"] < means["estimate-0"] and means["estimate-0 gla-grad-2"] < means["estimate-0"]
    assert rows["estimate-6"]["network_calls"] == 0 and means["from-0 ddim"] != means["from-6 ddim"]


def test_markdown_table():
    assert markdown_table(["system", "n"], [["a", 1], ["bb", 22.5]]) == (
        "| system |    n |\n| ------ | ---: |\n| a      |    1 |\n| bb     | 22.5 |\n"
    )


def test_report_needs_a_quality_folder(command, tmp_path, capsys):
    assert command("report", tmp_path, "-o", tmp_path / "report") == 2
    assert "quality.json: No such file" in capsys.readouterr().err
    (tmp_path / "journal.jsonl").write_text('{"settings": {}}\n')
    assert command("report", tmp_path, "-o", tmp_path / "report") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "has not finished there" in error
    assert not (tmp_path / "report").exists()


@pytest.fixture
def report(quality, command, tmp_path):
    assert quality() == 0
    assert command("report", tmp_path / "quality", "-o", tmp_path / "report") == 0
    shutil.rmtree(tmp_path / "quality")  # the report needs nothing but itself
    return tmp_path / "report"


@pytest.fixture
def change_quality(tmp_path, tiny_config, write_recording):
    """change_quality(change): a folder as `quality` writes it, of one recording and two systems, once `change` had its file."""

    def run(change):
        folder, figures = tmp_path / "quality", {"stoi": 0.9}
        systems = []
        for name in ("recording", "wg-3 ddim"):
            path = write_recording(folder / "audio" / "speech" / f"{name.replace(' ', '-')}.flac", seconds=0.2)
            systems.append({"system": name, "audio": path.relative_to(folder).as_posix(), "figures": figures})
        row = {"system": "wg-3 ddim", "sampler": "ddim", "network_calls": 3, "real_time_factor": 0.5}
        content = {
            "checkpoint": "tiny.safetensors", "device": "CPU", "jobs": 1, "metrics": ["stoi"], "mel": tiny_config.mel.model_dump(),
            "n_recordings": 1, "audio_seconds": 0.2, "examples": [{"recording": "speech", "systems": systems}],
            "rows": [{**row, "means": figures, "without_value": {"stoi": 0}} for _ in range(2)],
        }  # fmt: skip
        content = json.loads(json.dumps(content))
        changed = change(content)
        (folder / "quality.json").write_text(json.dumps(content if changed is None else changed))
        return folder

    return run


def set_audio(path):
    def change(content):
        content["examples"][0]["systems"][1]["audio"] = path

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda content: [], "quality.json: Input should be an object"),
        (lambda content: {"rows": [], "examples": [], "mel": {}}, "quality.json: missing key 'checkpoint'"),
        (lambda content: content["mel"].__delitem__("n_fft"), "missing key 'mel.n_fft'"),
        (lambda content: content["mel"].update(clip=[0.0, "a"]), "mel.clip.1: Input should be a valid number, found 'a'"),
        (lambda content: content.update(metrics=["loudness"]), "metrics.0: metric 'loudness' is unknown"),
        (lambda content: content.update(rows={}), "rows: Input should be a valid array"),
        (lambda content: content["rows"][0].update(means=None), "rows.0.means: "),
        (lambda content: content["rows"][1]["means"].__delitem__("stoi"), "missing key 'rows.1.means.stoi'"),
        (lambda content: content["rows"][1].update(real_time_factor=10**400), "rows.1.real_time_factor: "),
        (lambda content: content["examples"][0]["systems"][1]["figures"].__delitem__("stoi"), "'examples.0.systems.1.figures.stoi'"),
        (set_audio("../../victim.txt"), "examples.0.systems.1.audio: '../../victim.txt' is no path of audio"),
        (set_audio("audio/../victim.flac"), "is no path of audio"),
        (set_audio("/victim.flac"), "is no path of audio"),
        (set_audio("index.html"), "is no path of audio"),
        (set_audio("audio/speech/none.flac"), "audio/speech/none.flac: No such file"),
        (set_audio("audio/link/victim.flac"), "victim.flac: leads out of"),
        (set_audio("audio/speech/victim.flac"), "victim.flac: leads out of"),
    ],
)
def test_a_report_of_a_damaged_or_hostile_file_is_one_line(change_quality, command, tmp_path, capsys, change, said):
    """Nothing is written, least of all outside the report's folder."""
    folder = change_quality(change)
    (tmp_path / "victim.txt").write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "audio" / "speech" / "recording.flac", tmp_path / "elsewhere" / "victim.flac")
    (folder / "audio" / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "audio" / "speech" / "victim.flac").symlink_to(tmp_path / "elsewhere" / "victim.flac")
    capsys.readouterr()
    assert command("report", folder, "-o", tmp_path / "a" / "report") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and len(error) < 600
    assert (tmp_path / "victim.txt").read_text() == "precious" and not (tmp_path / "a").exists()


def test_a_report_writes_through_no_link_out_of_its_folder(change_quality, command, tmp_path, capsys):
    folder, report = change_quality(lambda content: None), tmp_path / "report"
    for name in ("report", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("audio", "pictures"):
        (report / name).symlink_to(tmp_path / "elsewhere")
        assert command("report", folder, "-o", report) == 2
        assert "leads out of" in capsys.readouterr().err and not any((tmp_path / "elsewhere").iterdir())
        (report / name).unlink()


def test_a_report_may_be_made_in_the_folder_itself(change_quality, command, tmp_path, capsys):
    """And twice; what stands between dollar signs in a name is no TeX."""
    folder = change_quality(lambda content: content["rows"][1].update(system="a $\\frac$ b"))
    sound = (folder / "audio" / "speech" / "recording.flac").read_bytes()
    for _ in range(2):
        assert command("report", folder, "-o", folder) == 0, capsys.readouterr().err
        assert (folder / "audio" / "speech" / "recording.flac").read_bytes() == sound
    assert not list(tmp_path.rglob(".*"))


def test_report_holds_all_that_its_page_shows(report):
    page = (report / "index.html").read_text()
    files = re.findall(r'src="([^"]*)"', page)
    assert len(files) == 4 // 2 + 2 * 4 * 2  # one metric's plots, and picture and audio of 2 recordings by 4 systems
    for file in files:
        assert (report / file.replace("%20", " ")).stat().st_size > 0, file
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_every_player_of_the_report_knows_its_duration(report):
    page = report / "index.html"
    # The page says of each player what it is; nothing of this is in the report itself.
    script = """<script>document.querySelectorAll("audio").forEach(audio => {
        const note = () => audio.setAttribute("data-seconds", audio.duration.toFixed(2));
        audio.readyState ? note() : audio.addEventListener("loadedmetadata", note); });</script>"""
    (report / "check.html").write_text(page.read_text().replace("</body>", script + "</body>"))
    result = run_to_end(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={report / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
        (report / "check.html").as_uri(), timeout=120,
    )  # fmt: skip
    seconds = re.findall(r'<audio[^>]*data-seconds="([\d.]+)"', result.stdout)
    assert len(seconds) == 8, result.stderr[-2000:]
    np.testing.assert_allclose([float(s) for s in seconds], [1.0] * 4 + [1.2] * 4, atol=0.01)


def test_fast_and_textbook_loop_learn_the_same(command, tmp_path, capsys):
    """Fails if the two loops do not start from the same weights, see other examples, or update otherwise."""
    config = write_run(tmp_path)
    assert command("convergence", "-c", config, "--steps", 20, "--seeds", 2) == 0, capsys.readouterr().err
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in capsys.readouterr().out.splitlines() if "|" in line}
    plain_losses, present_losses = ([float(cell) for cell in rows[name]] for name in ("plain", "present"))
    assert plain_losses[0] != plain_losses[1]
    assert present_losses == pytest.approx(plain_losses, rel=1e-3)


def test_training_speed_and_memory(command, tmp_path, capsys):
    """Fails if a variant is not measured, or if recomputing activations does not spare memory; or if the synthetic recordings lack
    what an option of the data asks for."""
    config = write_run(tmp_path, data__low_pass_share=0.5)
    assert command("training", "-c", config, "--rounds", 1) == 0, capsys.readouterr().err
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert rows == [name for name in VARIANTS if not name.startswith("compiled")]

    names = ["present fp32", "present fp32, checkpointed activations"]
    assert command("training", "-c", config, "--memory", "--variants", *names) == 0, capsys.readouterr().err
    rows = [line.split("|")[3] for line in capsys.readouterr().out.splitlines() if line.startswith("| present")]
    whole, recomputed = map(float, rows)
    assert 0 < recomputed < whole


def test_animation_goes_from_noise_to_speech(command, tiny_checkpoint, filelist, tmp_path, capsys):
    arguments = ["animation", "-ch", tiny_checkpoint, "-ns", SCHEDULES[1], "-r", tmp_path / "recording 0.wav"]
    assert command(*arguments, "-o", tmp_path / "noise to speech.gif") == 0, capsys.readouterr().err
    with PIL.Image.open(tmp_path / "noise to speech.gif") as image:
        durations = []
        for frame in range(image.n_frames):
            image.seek(frame)
            durations.append(image.info["duration"])
    assert len(durations) == 7 and durations[-1] > durations[0]  # six steps and the result, which stays
    assert command(*arguments, "--steps", 3, "-o", tmp_path / "three.gif") == 0, capsys.readouterr().err
    with PIL.Image.open(tmp_path / "three.gif") as image:
        assert image.n_frames == 4
    assert command(*arguments, "-o", tmp_path / "animation.mp4") == 2
    assert "ends in .gif" in capsys.readouterr().err
