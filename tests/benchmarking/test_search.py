"""The schedule search: candidates, scores, journal, processes."""

import json
import os
import signal

import numpy as np
import pytest
import soundfile
import torch

from benchmarking.candidates import ScheduleCurves, default_ladder, grid_candidates, propose, rounded
from benchmarking.measuring import Measurer, Measuring, System, score
from benchmarking.results import Results
from benchmarking.workers import in_processes
from common.errors import InputError
from model.noise_schedule import NoiseSchedule, fibonacci
from model.samplers import DEFAULT_SAMPLER
from tests.conftest import ROOT
from tests.processes import PYTHON, start, wait_for

WG_6 = NoiseSchedule.load(ROOT / "schedules" / "wg-6.json")


def options_of(tiny_checkpoint, filelist, output):
    return ["search", "-ch", tiny_checkpoint, "--filelist", filelist, "-o", output, "--steps", 3, "--seconds", 0.3, "--recordings", 2]


@pytest.fixture
def search(command, monkeypatch, tmp_path, tiny_checkpoint, filelist):
    """search(*arguments): what is in the schedule that the command writes, `found.json`; or its line of status 2."""

    def run(*arguments, status=0):
        output = tmp_path / "found.json"
        monkeypatch.chdir(tmp_path)
        found, _, error = command(*options_of(tiny_checkpoint, filelist, output), "--jobs", 1, *arguments)
        assert found == status and (status == 0 or error.count("\n") == 1), error
        return error if status else json.loads(output.read_text())

    return run


def test_the_whole_grid_of_six_steps():
    """Fails if a candidate is left out, or there twice, or not with the digits that it is written with."""
    candidates = grid_candidates(default_ladder(6))
    np.testing.assert_array_equal(candidates[0], [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    np.testing.assert_array_equal(candidates[-1], [9e-6, 9e-5, 9e-4, 9e-3, 9e-2, 9e-1])
    multipliers = (candidates / default_ladder(6)).round().astype(int)
    assert multipliers.shape == (9**6, 6) and len(set(map(int, (multipliers - 1) @ 9 ** np.arange(6)))) == 9**6


@pytest.mark.parametrize("n_steps", [3, 6])
def test_a_subset_follows_from_the_seed_and_meets_the_constraints(n_steps):
    ladder = default_ladder(n_steps)
    first, again, other = (grid_candidates(ladder, 50, seed, non_decreasing=True, final_noise_level=(0.1, 0.9)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (50, n_steps) == np.unique(first, axis=0).shape
    assert (np.diff(first, axis=1) >= 0).all()
    levels = np.sqrt(np.prod(1 - first, axis=1))
    assert levels.min() >= 0.1 and levels.max() <= 0.9
    multipliers = first / ladder
    np.testing.assert_allclose(multipliers, multipliers.round(), rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(ladder=[]), "ladder"),
        (dict(ladder=[0.1, 2.0]), "ladder"),
        (dict(ladder=[1e-3, 0.1], n_candidates=82), "81 candidates"),
        (dict(ladder=[1e-6, 1e-6], final_noise_level=(0.1, 0.5)), "0 candidates"),
        (dict(ladder=default_ladder(8), n_candidates=5), "a grid of 8 steps is too large"),
    ],
)
def test_impossible_grids_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        grid_candidates(**arguments)


@pytest.mark.parametrize("n_steps, n_knots", [(1, 6), (2, 6), (3, 6), (6, 6), (12, 6), (50, 4)])
def test_every_point_of_the_box_is_a_schedule(n_steps, n_knots):
    curves = ScheduleCurves(n_steps, n_knots)
    generator = np.random.default_rng(0)
    corners = [np.zeros(curves.n_knots), np.ones(curves.n_knots), curves.middle]
    for point in [*corners, *generator.random((50, curves.n_knots))]:
        schedule = rounded(curves.schedule(point))
        assert len(schedule) == n_steps
        assert 0.0499 < schedule.noise_levels[-1] < 0.9801


@pytest.mark.parametrize("schedule, tolerance", [(WG_6, 1e-6), (fibonacci(25, 1e-6), 0.4)], ids=["wg-6", "fibonacci"])
def test_known_schedules_lie_in_the_box(schedule, tolerance):
    """A curve through six points cannot follow 25 exactly."""
    curves = ScheduleCurves(len(schedule), 6)
    found = curves.schedule(curves.point(schedule))
    np.testing.assert_allclose(found.log_snr, schedule.log_snr, atol=tolerance)


def test_tpe_finds_a_known_optimum():
    """Fails if it does not begin where it is told to, learns nothing, or gives another number of candidates than it was asked for."""
    curves, losses = ScheduleCurves(6, 6), []

    def distances(candidates):
        new = [float(np.square(NoiseSchedule(betas).log_snr - WG_6.log_snr).sum()) for betas in candidates]
        losses.extend(new)
        return new

    propose(curves, curves.middle, 0, 150, distances)
    assert losses[0] == pytest.approx(np.square(curves.schedule(curves.middle).log_snr - WG_6.log_snr).sum(), rel=1e-3)
    assert len(losses) == 150 and min(losses) < 0.2 * losses[0]


def test_scores_follow_from_betas_and_noise_alone(tiny_checkpoint, filelist):
    """Fails if they depend on other candidates or recordings, on the number of processes, or not on the seed of the noise."""
    systems = [System("", "", NoiseSchedule(betas), "ancestral") for betas in grid_candidates(default_ladder(3), 6, seed=0)]

    def measuring(seed=0, recordings=3):
        return Measuring(str(tiny_checkpoint), str(filelist), recordings, 0.3, ("log_mel_l1",), seed)

    def scores(systems, jobs, **changes):
        return list(in_processes(score, [(measuring(**changes), system) for system in systems], jobs))

    forwards = scores(systems, 1)
    assert forwards == scores(systems[::-1], 1)[::-1] == scores(systems, 2)
    assert len(set(forwards)) == 6 and forwards != scores(systems, 1, seed=1)
    several, one = (Measurer(measuring(recordings=n), torch.device("cpu")).synthesize(systems[0], 0) for n in (3, 1))
    torch.testing.assert_close(several, one)


def test_results_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    """Fails if what was cut off counts, or spoils what is written after it; or results of other settings are taken for one's own."""
    path = tmp_path / "journal"
    Results(path).add({"score": 0.1}, "seed 0", [0.1])
    with open(path, "ab") as file:
        file.write(b'[]\n{"score": 1}\n' + b"[" * 100_000 + b'\n{"score": 0.')
    Results(path).add({"score": None}, "seed 0", [0.2])
    results = Results(path)
    assert results.get("seed 0", [0.1])["score"] == 0.1 and results.get("seed 0", [0.2])["score"] is None
    assert results.get("seed 1", [0.1]) is None


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_a_killed_search_resumes_to_the_same_result(search, method, tmp_path):
    arguments, journal = ["--method", method, "--candidates", "10"], tmp_path / "found.journal.jsonl"
    schedule, whole = search(*arguments), journal.read_bytes()
    assert f"{method} search, 10 of 10 candidates, seed 0: log_mel_l1" in schedule["source"]
    assert "tiny.safetensors" in schedule["source"] and str(tmp_path) not in schedule["source"]
    entries = [json.loads(line) for line in whole.splitlines()]
    assert len(entries) == 10
    assert schedule["betas"] == min(entries, key=lambda entry: entry["score"])["betas"]
    assert schedule["sampler"] == DEFAULT_SAMPLER

    # As a kill would leave it: six results and half of a line.
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:6]) + lines[6][:20])
    (tmp_path / "found.json").unlink()
    assert search(*arguments) == schedule
    assert journal.read_bytes().splitlines(keepends=True)[7:] == lines[6:]
    assert "12 of 12 candidates" in search(*arguments[:-1], "12")["source"]
    assert journal.read_bytes().count(b"\n") == 13


@pytest.mark.parametrize(
    "change, arguments, sampler", [("", [], "ddim"), ("", ["--sampler", "ancestral"], "ancestral"), (":12", [], "dpm-solver")]
)
def test_samples_with_what_its_start_was_made_for(search, change, arguments, sampler, tmp_path):
    """Fails if a schedule is sought for a sampler that it will not be used with."""
    NoiseSchedule([0.001, 0.05, 0.6], sampler="ddim", many_steps_sampler="dpm-solver").save(tmp_path / "start.json")
    schedule = search("--start", f"{tmp_path}/start.json{change}", "--candidates", "1", *arguments)
    assert schedule["sampler"] == sampler and f"with the sampler {sampler} on" in schedule["source"]


@pytest.mark.parametrize("kill, number, status", [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)])
def test_an_interrupted_search_has_saved_its_best(tmp_path, tiny_checkpoint, filelist, kill, number, status):
    """Ctrl-C reaches all processes, `kill` and batch systems end the first."""
    output = tmp_path / "found.json"
    options = options_of(tiny_checkpoint, filelist, output)
    process = start(PYTHON, "benchmark.py", *options, "--jobs", 2, "--method", "grid", "--steps", 6, "--candidates", "all")
    journal = output.with_suffix(".journal.jsonl")
    try:
        wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2)
        kill(process.pid, number)
        _, error = process.communicate(timeout=300)  # ends when no process has standard error open any more
    finally:
        process.kill()
    assert process.returncode == status
    assert not list(tmp_path.glob(".*"))  # temporary files
    assert "the best so far is in" in error and "Traceback" not in error
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    best = [min(some, key=lambda entry: entry["score"])["betas"] for some in (entries, entries[:-1])]
    assert NoiseSchedule.load(output).betas.tolist() in best  # the signal may come between the last line and what follows it


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--method", "grid", "--ladder"], "--ladder has 0 values"),
        (["--method", "grid", "--ladder", "0.1", "0.2"], "--ladder has 2 values (expected: 3"),
        (["--candidates", "few"], "--candidates is few"),
        (["--candidates", "all"], "--candidates all"),
        (["--recordings", "9"], "3 recordings (expected: 9)"),
        (["--sampler", "euler"], "sampler 'euler': expected one of"),
        (["--final_noise_level", "0.9", "0.1"], "--final_noise_level"),
        (["--filelist", "empty.txt"], "empty.txt: the filelist is empty"),
        (["--filelist", "wrong_rate.txt"], "sample rate is 16000 Hz (expected: 8000 Hz;"),
        (["--checkpoint", "missing.safetensors"], "missing.safetensors: No such file"),
        (["-o", "found.txt"], "found.txt: cannot be written (expected: the name of a .json file)"),
        (["-o", "folder.json"], "folder.json: cannot be written"),
        (["--start", "deep.json"], "deep.json: "),
        (["--start", "deep.json:x"], "deep.json:x: no noise schedule"),
        (["--seconds", "0.005"], "--seconds is 0.005, too short for this model's mels (expected: 0.015 or more)"),
    ],
)
def test_bad_input_is_one_line_and_status_2(search, tmp_path, write_recording, arguments, said):
    (tmp_path / "empty.txt").write_text("\n")
    write_recording(tmp_path / "other.wav", sample_rate=16000)
    (tmp_path / "wrong_rate.txt").write_text("other.wav\n")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "folder.json").mkdir()
    assert said in search(*arguments, status=2)


def test_a_search_replaces_no_schedule_but_its_own(search, tmp_path):
    """Neither its start, under any name, nor one that another search or a person made."""
    output, link = tmp_path / "found.json", tmp_path / "link.json"
    NoiseSchedule([0.001, 0.05, 0.6]).save(output)
    link.symlink_to(output)
    content = output.read_bytes()
    for path, change in [(output, ""), (link, ""), (output, ":12"), (link, ":x2")]:
        error = search("--start", f"{path}{change}", "--candidates", "1", status=2)
        assert error == f"error: {output}: the result would overwrite {path} (expected: another name)\n"
    assert f"error: {output}: is there already" in search("--candidates", "1", status=2)
    assert output.read_bytes() == content and not (tmp_path / "found.journal.jsonl").exists()
    output.rename(tmp_path / "start.json")
    for _ in range(2):  # the same command goes on
        search("--start", str(tmp_path / "start.json"), "--candidates", "1")


def test_a_metric_without_a_value_is_said_before_the_search(search, tmp_path, write_recording):
    """0.3 s are too short for STOI, whatever a schedule makes of them; silence has no value, however long."""
    error = search("--metric", "stoi", status=2)
    assert "list.txt: STOI has no value for 2 of 2 excerpts" in error and "recording 0, recording 2 (expected: " in error
    write_recording(tmp_path / "recording 0.wav", seconds=1.5)
    soundfile.write(tmp_path / "recording 2.wav", np.zeros(12000), 8000)
    error = search("--metric", "stoi", "--seconds", "1.5", status=2)
    assert "for 1 of 2 excerpts, too short or silent: recording 2 (expected" in error
    assert not (tmp_path / "found.journal.jsonl").exists()
