"""The schedule search: candidates, scores, journal, processes."""

import json
import os
import signal
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

import benchmark
from benchmarking.candidates import OPTIMIZERS, ScheduleCurves, default_ladder, grid_candidates, rounded
from benchmarking.journal import Journal
from benchmarking.measuring import Measuring, System
from benchmarking.search import Scorer, optimizer_batches
from benchmarking.workers import start_workers
from common.errors import InputError, run_command
from model.noise_schedule import NoiseSchedule, fibonacci
from model.samplers import DEFAULT_SAMPLER
from tests.conftest import ROOT
from tests.processes import PYTHON, start, wait_for

WG_6 = NoiseSchedule.load(ROOT / "schedules" / "wg-6.json")


@pytest.fixture
def filelist(tmp_path, write_recording):
    names = [f"{number}.wav" for number in range(4)]
    for number, name in enumerate(names):
        write_recording(tmp_path / name, seconds=0.5 + 0.1 * number, seed=number)
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
    return tmp_path / "list.txt"


def command_of(tiny_checkpoint, filelist, output, *arguments):
    return ["benchmark.py", "search", "-ch", str(tiny_checkpoint), "--filelist", str(filelist), "-o", str(output),
            "--steps", "3", "--seconds", "0.3", "--recordings", "2", "--jobs", "1", *arguments]  # fmt: skip


@pytest.fixture
def search(monkeypatch, tmp_path, tiny_checkpoint, filelist):
    """search(*arguments): the command's exit status, and the paths of the files it writes."""

    def run(*arguments):
        output = tmp_path / "found.json"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", command_of(tiny_checkpoint, filelist, output, *arguments))
        with pytest.raises(SystemExit) as exit_:
            run_command(benchmark.main)
        return exit_.value.code, output, output.with_suffix(".journal.jsonl")

    return run


def test_the_whole_grid_of_six_steps():
    candidates = grid_candidates(default_ladder(6))
    assert candidates.shape == (9**6, 6)
    np.testing.assert_array_equal(candidates[0], [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    np.testing.assert_array_equal(candidates[-1], [9e-6, 9e-5, 9e-4, 9e-3, 9e-2, 9e-1])
    multipliers = (candidates / default_ladder(6)).round().astype(int)
    assert len(set(map(int, (multipliers - 1) @ 9 ** np.arange(6)))) == 9**6  # each once
    assert np.sqrt(np.prod(1 - candidates, axis=1)).min() < 0.31  # it reaches noise


@pytest.mark.parametrize("n_steps", [3, 6, 12])
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
        (dict(ladder=[1e-3, 0.1], n_candidates=0), "0 candidates"),
        (dict(ladder=[1e-3, 0.1], n_candidates=82), "81 candidates"),
        (dict(ladder=[1e-6, 1e-6], final_noise_level=(0.1, 0.5)), "0 candidates"),
        (dict(ladder=default_ladder(12)), "too many"),
        (dict(ladder=default_ladder(12), n_candidates=5, final_noise_level=(0.0011, 0.0012)), "meet the constraints"),
    ],
)
def test_impossible_grids_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        grid_candidates(**arguments)


@pytest.mark.parametrize("n_steps, n_knots", [(1, 6), (2, 6), (3, 6), (6, 6), (12, 6), (50, 4)])
def test_every_point_of_the_box_is_a_schedule(n_steps, n_knots):
    curves = ScheduleCurves(n_steps, n_knots)
    generator = np.random.default_rng(0)
    corners = [np.zeros(curves.n_dimensions), np.ones(curves.n_dimensions), curves.middle]
    for point in [*corners, *generator.random((50, curves.n_dimensions))]:
        schedule = rounded(curves.schedule(point))
        assert len(schedule) == n_steps
        assert 0.0499 < schedule.noise_levels[-1] < 0.9801


@pytest.mark.parametrize("schedule", [WG_6, fibonacci(25, 1e-6)], ids=["wg-6", "fibonacci"])
def test_known_schedules_lie_in_the_box(schedule):
    curves = ScheduleCurves(len(schedule), 6)
    found = curves.schedule(curves.point(schedule))
    tolerance = 1e-6 if len(schedule) == 6 else 0.4  # a curve through six points cannot follow 25 exactly
    np.testing.assert_allclose(found.log_snr, schedule.log_snr, atol=tolerance)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimisers_find_a_known_optimum(name):
    curves = ScheduleCurves(6, 6)
    target = curves.point(WG_6)
    batches = OPTIMIZERS[name](curves.middle, seed=0)
    points, losses = next(batches), []
    while len(losses) < 150:
        new = [float(((point - target) ** 2).sum()) for point in points]
        losses += new
        points = batches.send(new)
    assert losses[0] == pytest.approx(((curves.middle - target) ** 2).sum())  # starts where it is told to
    assert min(losses) < 0.2 * losses[0]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimisers_keep_to_the_number_of_candidates(name):
    curves = ScheduleCurves(3, 6)
    batches = optimizer_batches(name, curves, curves.middle, 0, 11)
    total, losses = 0, None
    with pytest.raises(StopIteration):
        while True:
            candidates = batches.send(losses)
            total += len(candidates)
            losses = [0.5] * len(candidates)
    assert total == 11


def scorer_of(tiny_checkpoint, filelist, **changes):
    """A function of a device that makes a `Scorer`."""
    values = dict(n_recordings=3, seconds=0.3, metrics=("log_mel_l1",), seed=0)
    return partial(Scorer, Measuring(str(tiny_checkpoint), str(filelist), **(values | changes)), "ancestral")


def test_scores_do_not_depend_on_what_was_scored_before(tiny_checkpoint, filelist):
    candidates = grid_candidates(default_ladder(3), 4, seed=0)
    scorer = scorer_of(tiny_checkpoint, filelist)(torch.device("cpu"))
    forwards = [scorer(betas) for betas in candidates]
    backwards = [scorer(betas) for betas in candidates[::-1]]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 4
    assert forwards != [scorer_of(tiny_checkpoint, filelist, seed=1)(torch.device("cpu"))(b) for b in candidates]


def test_an_excerpt_hears_the_same_noise_in_any_company(tiny_checkpoint, filelist):
    both, one = (scorer_of(tiny_checkpoint, filelist, n_recordings=n)(torch.device("cpu")) for n in (3, 1))
    system = System("", "", WG_6, "ancestral")
    torch.testing.assert_close(both.synthesize(system, 0), one.synthesize(system, 0))


def test_scores_are_identical_for_any_number_of_processes(tiny_checkpoint, filelist):
    candidates = [betas.tolist() for betas in grid_candidates(default_ladder(3), 12, seed=0)]
    scores = []
    for jobs in (1, 2):
        with start_workers(scorer_of(tiny_checkpoint, filelist), jobs) as score:
            scores.append(list(score(candidates)))
    assert scores[0] == scores[1]
    assert len(set(scores[0])) == 12


def test_a_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path, {"seed": 0})
    journal.append({"betas": [0.1], "score": 0.1})
    journal.close()
    with open(path, "ab") as file:
        file.write(b'{"score": 0.')
    journal = Journal(path, {"seed": 0})
    assert journal.entries == [{"betas": [0.1], "score": 0.1}]
    journal.append({"betas": [0.2], "score": None})
    journal.close()
    assert Journal(path, {"seed": 0}).entries == [{"betas": [0.1], "score": 0.1}, {"betas": [0.2], "score": None}]


@pytest.mark.parametrize("settings", [{"seed": 1}, {"seed": 0, "steps": 3}, {}])
def test_a_journal_of_another_run_is_refused(tmp_path, settings):
    Journal(tmp_path / "journal", {"seed": 0}).close()
    with pytest.raises(InputError, match="journal of another run, its (seed|steps) is"):
        Journal(tmp_path / "journal", settings)


@pytest.mark.parametrize(
    "content, said",
    [
        ("no journal\n", "line 1 is no JSON object"),
        ("no journal", "its first line has no 'settings'"),
        ("[" * 100_000 + "\n", "line 1 is no JSON object"),
        ('{"settings": []}\n', "its first line has no 'settings'"),
        ('{"settings": {}}\n[]\n', "line 2 is no JSON object"),
    ],
)
def test_a_damaged_journal_is_refused_and_left_as_it_is(tmp_path, content, said):
    (tmp_path / "journal").write_text(content)
    with pytest.raises(InputError) as caught:
        Journal(tmp_path / "journal", {})
    assert f"{tmp_path / 'journal'}: " in str(caught.value) and said in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert (tmp_path / "journal").read_text() == content


HOLD_JOURNAL = """
import sys, time
from benchmarking.journal import Journal
journal = Journal(sys.argv[1], {"seed": 0})
print("open", flush=True)
time.sleep(600)
"""


def test_a_journal_is_one_processs_until_it_ends_however_it_ends(tmp_path):
    path = tmp_path / "journal"
    process = start(PYTHON, "-c", HOLD_JOURNAL, path)
    try:
        assert process.stdout.readline() == "open\n"
        content = path.read_bytes()
        with pytest.raises(InputError, match="journal: in use by another process"):
            Journal(path, {"seed": 0})
        assert path.read_bytes() == content
    finally:
        process.kill()
        process.communicate()
    Journal(path, {"seed": 0}).close()


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_a_killed_search_resumes_to_the_same_result(search, method, capsys):
    arguments = ["--method", method, "--candidates", "10"]
    status, output, journal = search(*arguments)
    assert status == 0, capsys.readouterr().err
    schedule = json.loads(output.read_text())
    whole = journal.read_bytes()
    assert f"{method} search, 10 of 10 candidates, seed 0: log_mel_l1" in schedule["source"]
    assert "tiny.safetensors" in schedule["source"] and str(output.parent) not in schedule["source"]
    entries = [json.loads(line) for line in whole.splitlines()[1:]]
    assert len(entries) == 10
    assert schedule["betas"] == min(entries, key=lambda entry: entry["score"])["betas"]
    assert schedule["sampler"] == DEFAULT_SAMPLER

    # As a kill would leave it: six results and half of a line.
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    output.unlink()
    status, output, journal = search(*arguments)
    assert status == 0, capsys.readouterr().err
    assert json.loads(output.read_text()) == schedule
    assert journal.read_bytes() == whole


@pytest.mark.parametrize(
    "change, arguments, sampler", [("", [], "ddim"), ("", ["--sampler", "ancestral"], "ancestral"), (":12", [], "dpm-solver")]
)
def test_samples_with_what_its_start_was_made_for(search, change, arguments, sampler, tmp_path, capsys):
    """Fails if a schedule is sought for a sampler that it will not be used with."""
    NoiseSchedule([0.001, 0.05, 0.6], sampler="ddim", many_steps_sampler="dpm-solver").save(tmp_path / "start.json")
    status, output, _ = search("--start", f"{tmp_path}/start.json{change}", "--candidates", "1", *arguments)
    assert status == 0, capsys.readouterr().err
    schedule = json.loads(output.read_text())
    assert schedule["sampler"] == sampler and f"with the sampler {sampler} on" in schedule["source"]


@pytest.mark.parametrize("kill, number, status", [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)])
def test_an_interrupted_search_has_saved_its_best(tmp_path, tiny_checkpoint, filelist, kill, number, status):
    """Ctrl-C reaches all processes, `kill` and batch systems end the first."""
    output = tmp_path / "found.json"
    command = command_of(tiny_checkpoint, filelist, output, "--method", "grid", "--steps", "6", "--candidates", "all")
    process = start(PYTHON, *command, "--jobs", "2")
    journal = output.with_suffix(".journal.jsonl")
    try:
        wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3)
        kill(process.pid, number)
        _, error = process.communicate(timeout=300)  # ends when no process has standard error open any more
    finally:
        process.kill()
    assert process.returncode == status
    assert not list(tmp_path.glob(".*"))  # temporary files
    assert "the best so far is in" in error and "Traceback" not in error
    entries = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    best = [min(some, key=lambda entry: entry["score"])["betas"] for some in (entries, entries[:-1])]
    assert NoiseSchedule.load(output).betas.tolist() in best  # the signal may come between the last line and what follows it


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--steps", "0"], "--steps is 0"),
        (["--method", "grid", "--ladder"], "--ladder has 0 values"),
        (["--method", "grid", "--ladder", "0.1", "0.2"], "--ladder has 2 values (expected: 3"),
        (["--candidates", "0"], "--candidates is 0"),
        (["--candidates", "few"], "--candidates is 'few'"),
        (["--candidates", "all"], "--candidates all"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--recordings", "9"], "4 recordings (expected: 9)"),
        (["--seconds", "0"], "--seconds is 0"),
        (["--sampler", "euler"], "sampler 'euler': expected one of"),
        (["--final_noise_level", "0.9", "0.1"], "--final_noise_level"),
        (["--filelist", "empty.txt"], "empty.txt: the filelist is empty"),
        (["--filelist", "wrong_rate.txt"], "sample rate is 16000 Hz (expected: 8000 Hz;"),
        (["--checkpoint", "missing.safetensors"], "missing.safetensors: No such file"),
        (["-o", "found.txt"], "found.txt: a schedule file ends in .json"),
        (["-o", "empty.txt/found.json"], "empty.txt"),
        (["-o", "folder.json"], "folder.json: cannot be written"),
        (["--start", "deep.json"], "deep.json: "),
        (["--start", "deep.json:x"], "deep.json:x: no noise schedule"),
        (["--seconds", "0.005"], "--seconds is 0.005, too short for this model's mels (expected: 0.015 or more)"),
    ],
)
def test_bad_input_is_one_line_and_status_2(search, capsys, tmp_path, write_recording, arguments, said):
    (tmp_path / "empty.txt").write_text("\n")
    write_recording(tmp_path / "other.wav", sample_rate=16000)
    (tmp_path / "wrong_rate.txt").write_text("other.wav\n")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "folder.json").mkdir()
    status, _, _ = search(*arguments)
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_a_search_replaces_no_schedule_but_its_own(search, capsys, tmp_path):
    """Neither its start, under any name, nor one that another search or a person made."""
    output, link = tmp_path / "found.json", tmp_path / "link.json"
    NoiseSchedule([0.001, 0.05, 0.6]).save(output)
    link.symlink_to(output)
    content = output.read_bytes()
    for path, change in [(output, ""), (link, ""), (output, ":12"), (link, ":x2")]:
        assert search("--start", f"{path}{change}", "--candidates", "1")[0] == 2
        assert capsys.readouterr().err == f"error: {output}: the result would overwrite {path} (expected: another name)\n"
    status, _, journal = search("--candidates", "1")
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and f"error: {output}: is there already" in error
    assert output.read_bytes() == content and not journal.exists()
    output.rename(tmp_path / "start.json")
    for _ in range(2):  # the same command goes on
        assert search("--start", str(tmp_path / "start.json"), "--candidates", "1")[0] == 0, capsys.readouterr().err


def test_a_metric_without_a_value_is_said_before_the_search(search, capsys, tmp_path, write_recording):
    """0.3 s are too short for STOI, whatever a schedule makes of them; silence has no value, however long."""
    assert search("--metric", "stoi")[0] == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "list.txt: STOI has no value for 2 of 2 excerpts" in error and "0, 3 (expected: " in error
    write_recording(tmp_path / "0.wav", seconds=1.5)
    soundfile.write(tmp_path / "3.wav", np.zeros(12000), 8000)
    assert search("--metric", "stoi", "--seconds", "1.5")[0] == 2
    assert "for 1 of 2 excerpts, too short or silent: 3 (expected" in capsys.readouterr().err
    assert not (tmp_path / "found.journal.jsonl").exists()


def test_shorter_recordings_shorten_no_other_one(search, tiny_checkpoint, filelist, capsys):
    status, output, _ = search("--seconds", "0.7", "--recordings", "4", "--candidates", "2")
    assert status == 0
    assert "note: 2 of 4 recordings are shorter than 0.7 s, and taken whole: 0, 1\n" in capsys.readouterr().err
    scorer = scorer_of(tiny_checkpoint, filelist, n_recordings=4, seconds=0.7)(torch.device("cpu"))
    assert [len(excerpt.waveform) for excerpt in scorer.excerpts] == [4000, 4800, 5600, 5600]
