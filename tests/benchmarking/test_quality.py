"""`benchmark.py quality` and the page that `benchmark.py report` makes of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarking.excerpts import of_each_speaker
from benchmarking.measuring import Measurer, make_systems, split_sampler
from common.errors import InputError
from model.noise_schedule import NoiseSchedule
from tests.conftest import ROOT

SCHEDULES = [str(ROOT / "schedules" / f"{name}.json") for name in ("wg-3", "wg-6")]


@pytest.fixture
def quality(command, tiny_checkpoint, filelist, tmp_path):
    """quality(*arguments): what `quality` writes of two schedules and all metrics that take no model; or its error and other status."""

    def run(*arguments, status=0):
        found, said, error = command(
            "quality", "-ch", tiny_checkpoint, "--filelist", filelist, "-o", tmp_path / "quality", "--audio", 2,
            "--schedules", SCHEDULES[0], f"{SCHEDULES[1]}@ddim", "--jobs", 1,
            "--metrics", "stoi", "mcd", "log_mel_l1", "m_stft", *arguments,
        )  # fmt: skip
        assert found == status, error
        assert status or said.strip() in (tmp_path / "quality" / "quality.md").read_text()
        return error if status else json.loads((tmp_path / "quality" / "quality.json").read_text())

    return run


@pytest.fixture
def report(command, tmp_path):
    """report(*arguments): the page that `report` makes of the folder of `quality`; or its line of status 2."""

    def run(*arguments, output="report", status=0):
        found, _, error = command("report", tmp_path / "quality", "-o", tmp_path / output, *arguments)
        assert found == status and error.count("\n") == status // 2, error
        return error if status else (tmp_path / output / "index.html").read_text()

    return run


def means_of(content, metric):
    return {row["system"]: row["means"][metric] for row in content["rows"]}


def test_quality_measures_every_system_and_remembers(quality, tmp_path, monkeypatch):
    """Fails if a system is left out, has the calls or the correction of another, or is measured twice."""
    content = quality("--gla_grad", 0, 2)
    l1, networks = (
        means_of(content, "log_mel_l1"),
        [f"{name}{end}" for name in ("wg-3 ancestral", "wg-6 ddim") for end in ("", " gla-grad-2")],
    )
    assert list(l1) == ["recording", "griffin-lim-32", *networks]
    assert [row["network_calls"] for row in content["rows"]] == [0, 0, 3, 3, 6, 6]
    assert means_of(content, "mcd")["recording"] == pytest.approx(0, abs=1e-6)
    assert l1["griffin-lim-32"] < l1["wg-3 ancestral"] and l1["wg-6 ddim gla-grad-2"] < 0.5 * l1["wg-6 ddim"]
    assert (tmp_path / "quality" / "quality.md").read_text().count("\n") == 8
    monkeypatch.setattr(Measurer, "measure", lambda *_: pytest.fail("measured again"))
    assert quality("--gla_grad", 0, 2) == content


def test_results_of_other_settings_do_not_mix(quality, tmp_path):
    """Fails if a changed schedule of the same name, or another seed, has the figures or the audio of the first."""
    path, found = tmp_path / "edited.json", []
    for level, seed in ((0.3, 0), (0.6, 0), (0.3, 1), (0.3, 0)):
        NoiseSchedule([1e-3, level], "edited", sampler="ancestral").save(path)
        mcd = means_of(quality("--schedules", path, "--metrics", "mcd", "--seed", seed), "mcd")["edited ancestral"]
        found.append((mcd, [file.read_bytes() for file in sorted((tmp_path / "quality").rglob("edited*.flac"))]))
    assert len(found[0][1]) == 2 and found[0] == found[3]
    assert len({mcd for mcd, _ in found}) == 3 and found[1][1] != found[0][1] != found[2][1]


def test_a_metric_that_cannot_judge_a_recording_counts_in_no_mean(quality, tmp_path, write_recording):
    """Of a recording of 0.3 s STOI has no value, of one of 0.1 s M-STFT has none: starred, as PESQ's are."""
    for name, seconds in {"short": 0.3, "tiny": 0.1}.items():
        write_recording(tmp_path / f"{name}.wav", seconds=seconds)
    (tmp_path / "list.txt").write_text("recording 0.wav\nshort.wav\ntiny.wav\n")
    row = quality("--schedules", SCHEDULES[0], "--metrics", "stoi", "m_stft", "mcd")["rows"][0]
    assert row["means"] == {"stoi": pytest.approx(1, abs=1e-4), "m_stft": 0, "mcd": 0}
    assert row["without_value"] == {"stoi": 2, "m_stft": 1, "mcd": 0}
    table = (tmp_path / "quality" / "quality.md").read_text()
    assert [cell.strip() for cell in table.splitlines()[2].split("|")[4:7]] == ["1.000*", "0.000*", "0.000"]
    assert "\\* the mean of fewer recordings" in table

    (tmp_path / "list.txt").write_text("tiny.wav\n")
    row = quality("--schedules", SCHEDULES[0], "--metrics", "stoi")["rows"][0]
    assert row["means"]["stoi"] is None and row["without_value"]["stoi"] == 1


def test_a_waveform_that_is_not_finite_has_no_figures_and_no_audio(quality, report, tmp_path):
    """What else is asked for is measured, the same command measures nothing again, and the page shows the rest."""
    NoiseSchedule([1e-20, 1e-20], "broken", sampler="ddim").save(tmp_path / "broken.json")
    for _ in range(2):
        error = quality("--schedules", tmp_path / "broken.json", SCHEDULES[0], status=1)
        assert "warning: broken ddim: the waveform of recording 0, recording 1, recording 2 holds NaN or infinity\n" in error
        assert (tmp_path / "quality" / "journal.jsonl").read_text().count("\n") == 3 * 4
    rows = {row["system"]: row for row in json.loads((tmp_path / "quality" / "quality.json").read_text())["rows"]}
    assert set(rows["broken ddim"]["means"].values()) == {None} and rows["broken ddim"]["without_value"]["mcd"] == 3
    assert None not in rows["wg-3 ancestral"]["means"].values()
    assert not list((tmp_path / "quality").rglob("broken*")) and len(list((tmp_path / "quality").rglob("*.flac"))) == 2 * 3
    page = report()
    assert page.count("No audio: the waveform holds NaN or infinity") == 2 and page.count("<audio") == 2 * 3


def test_a_short_recording_shortens_no_other_one(quality, tmp_path):
    quality("--seconds", 1.3, "--audio", 3)
    audio = tmp_path / "quality" / "audio"
    seconds = [soundfile.info(audio / f"recording {n}" / "griffin-lim-32.flac").duration for n in range(3)]
    assert seconds == pytest.approx([1.0, 1.2, 1.3], abs=0.005)


@pytest.fixture
def speakers(tmp_path, write_recording):
    """A filelist of three recordings of two speakers, two of the same file name."""
    for number, name in enumerate(("anna/1", "boris/1", "anna/2")):
        write_recording(tmp_path / f"{name}.wav", seconds=1.0, seed=number)
    (tmp_path / "list.txt").write_text("anna/1.wav\nboris/1.wav\nanna/2.wav\n")


def test_means_of_each_speaker(quality, report, speakers, tmp_path):
    """Fails if a mean is over other recordings than those of the speaker, or recordings of the same file name are mixed up."""
    content = quality("--audio", 3)
    entries = [json.loads(line) for line in (tmp_path / "quality" / "journal.jsonl").read_text().splitlines()]
    assert {entry["recording"] for entry in entries} == {"anna/1", "boris/1", "anna/2"}
    assert {name: rows[0]["n_recordings"] for name, rows in content["speakers"].items()} == {"anna": 2, "boris": 1}
    for speaker, rows in content["speakers"].items():
        for row in rows:
            own = [entry for entry in entries if entry["system"] == row["system"] and entry["recording"].startswith(speaker)]
            assert row["means"]["mcd"] == pytest.approx(np.mean([entry["figures"]["mcd"] for entry in own]))
    assert "\nSpeaker anna, recordings: 2\n" in (tmp_path / "quality" / "quality.md").read_text()
    assert len(list((tmp_path / "quality" / "audio" / "anna" / "2").glob("*.flac"))) == 4
    page = report()
    assert page.count("<audio") == 3 * 4 and (tmp_path / "report" / "pictures" / "boris" / "1" / "recording.png").is_file()
    assert "anna, 2 recordings" in page and page.index("<audio") < page.index("<table") < page.index("<details>")

    page = report("--only_mel_of", "anna")  # whose recordings the earlier report has
    published = {path.parent.relative_to(tmp_path / "report" / "audio") for path in (tmp_path / "report").rglob("recording.flac")}
    assert published == {Path("boris/1")}
    assert page.count("<audio") == 3 * 4 - 2 and page.count("not published") == 2 and page.count("<img") == 3 * 4
    error = report("--only_mel_of", "carla", output="other", status=2)
    assert "--only_mel_of 'carla': not in the result (expected: anna, boris)" in error and not (tmp_path / "other").exists()
    error = report("--only_mel_of", "anna", output="quality", status=2)
    assert "holds the recordings that --only_mel_of leaves out" in error
    assert len(list((tmp_path / "quality").rglob("recording.flac"))) == 3

    (tmp_path / "list.txt").write_text("anna/1.wav\nboris/1.wav\nanna/1.wav\n")
    assert "list.txt: 2 recordings are anna/1 (expected: other file names, " in quality(status=2)


def test_a_report_has_audio_of_the_systems_that_are_asked_for(quality, report, tmp_path):
    quality()
    page = report("--audio_of", "recording", "griffin-lim-32")
    assert {path.stem for path in (tmp_path / "report").rglob("*.flac")} == {"recording", "griffin-lim-32"}
    assert page.count("<audio") == 2 * 2 and page.count("WaveGrad, 3 steps") == 1
    error = report("--audio_of", "wg-4", output="other", status=2)
    assert "--audio_of 'wg-4': not in the result" in error and not (tmp_path / "other").exists()


def test_speakers_take_turns():
    speakers = ["a"] * 5 + ["b"] * 2 + ["c"] * 3
    assert of_each_speaker(speakers, 3) == [0, 5, 7, 2, 6, 8, 4, 9]
    assert of_each_speaker(speakers, 10) == [0, 5, 7, 1, 6, 8, 2, 9, 3, 4]


def test_recordings_of_another_rate_are_converted_on_request(quality, write_recording, tmp_path):
    """Fails if they are measured at their own rate, or converted without being asked for."""
    write_recording(tmp_path / "16k" / "a.wav", seconds=1.0, sample_rate=16000)
    options = ["--filelist", tmp_path / "16k", "--schedules", SCHEDULES[0], "--metrics", "mcd", "--griffin_lim", 0]
    assert "sample rate is 16000 Hz (expected: 8000 Hz; --resample" in quality(*options, status=2)
    assert quality(*options, "--resample")["audio_seconds"] == pytest.approx(1.0, abs=0.01)


def test_slow_metrics_are_measured_when_they_are_asked_for(command, monkeypatch):
    """Fails if a plain command takes several times as long as the audio, or its help does not say which metrics would."""
    monkeypatch.setattr("benchmarking.quality.run", lambda arguments: print(*arguments.metrics) or 0)
    _, metrics, _ = command("quality", "-ch", "a", "-o", "b", "--filelist", "c", "--schedules", "d")
    assert {"pesq", "m_stft", "distillmos"} < set(metrics.split()) and not {"periodicity", "vuv_f1"} & set(metrics.split())
    assert "all but periodicity and vuv_f1" in " ".join(command("quality", "--help")[1].split())


@pytest.mark.parametrize(
    "text, path, sampler",
    [
        ("a.json:25@ddim:0.5", "a.json:25", "ddim:0.5"),
        ("old.json@home/a.pt", "old.json@home/a.pt", None),
        ("a.json@", "a.json", ""),
        ("a@1.JSON:25", "a@1.JSON:25", None),
        ("linear:50:1e-6:0.01@ddim:0.5", "linear:50:1e-6:0.01", "ddim:0.5"),
    ],
)
def test_an_at_sign_in_a_path_names_no_sampler(text, path, sampler):
    assert split_sampler(text) == (path, sampler)


def test_systems_by_the_same_name_are_refused(tmp_path):
    for name, title in (("a", "a b"), ("b", "a/b")):
        NoiseSchedule([0.1, 0.5], title).save(tmp_path / f"{name}.json")
    with pytest.raises(InputError, match="'a/b ddim' is asked for twice"):  # one file of audio
        make_systems([f"{tmp_path}/a.json", f"{tmp_path}/b.json"], ["ddim"])
    with pytest.raises(InputError, match="sampler 'euler'"):
        make_systems([f"{SCHEDULES[0]}@euler"], ["ancestral"])


@pytest.mark.parametrize("text", ["none.json:3", "linear:50:1e-6@ddim"])
def test_what_is_no_schedule_is_said_in_one_line(quality, text):
    error = quality("--schedules", text, status=2)
    assert error.count("\n") == 1 and text.partition("@")[0].removesuffix(":3") in error


def test_the_start_of_a_schedule_is_a_system_without_the_network(quality, tmp_path):
    """Fails if it is none, or schedules that differ in their start alone share results."""
    for n_iter in (0, 6):
        NoiseSchedule([0.2], f"from-{n_iter}", sampler="ddim", griffin_lim=n_iter).save(tmp_path / f"{n_iter}.json")
    options = ["--griffin_lim", 0, "--metrics", "log_mel_l1", "--schedules", tmp_path / "0.json", tmp_path / "6.json"]
    content = quality(*options)
    means = means_of(content, "log_mel_l1")
    assert list(means) == ["recording", "estimate-0", "estimate-6", "from-0 ddim", "from-6 ddim"]
    assert means["estimate-6"] < means["estimate-0"] and means["from-0 ddim"] != means["from-6 ddim"]
    assert content["rows"][2]["network_calls"] == 0


def test_report_needs_a_quality_folder(report, tmp_path):
    (tmp_path / "quality").mkdir()
    assert "quality.json: No such file" in report(status=2)
    (tmp_path / "quality" / "journal.jsonl").touch()
    assert "has not finished there" in report(status=2) and not (tmp_path / "report").exists()


def set_audio(path):
    return lambda content: content["examples"][0]["systems"][1].update(audio=path)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda content: content.clear(), "quality.json: not a result of 'benchmark.py quality'"),
        (lambda content: content["mel"].pop("n_fft"), "missing key 'n_fft'"),
        (lambda content: content.update(metrics=["loudness"]), "quality.json: not a result"),
        (lambda content: content["rows"][1]["means"].pop("stoi"), "quality.json: not a result"),
        (set_audio("../../victim.flac"), "victim.flac: leads out of"),
        (set_audio("/victim.flac"), "victim.flac: leads out of"),
        (set_audio("audio/none.flac"), "audio/none.flac: No such file"),
    ],
)
def test_a_report_of_a_damaged_or_hostile_file_is_one_line(quality, report, tmp_path, change, said):
    """Nothing is written, least of all outside the report's folder."""
    content = quality("--schedules", SCHEDULES[0], "--metrics", "stoi", "--griffin_lim", 0, "--audio", 1, "--recordings", 1)
    change(content)
    (tmp_path / "quality" / "quality.json").write_text(json.dumps(content))
    error = report(output="a/report", status=2)
    assert said in error and len(error) < 600 and not (tmp_path / "a").exists()


def test_report_holds_all_that_its_page_shows(quality, report, tmp_path):
    """Made in the folder of the measurement, or elsewhere, where it needs nothing but itself."""
    quality()
    for folder in ("report", "quality"):
        report(output=folder)
    (tmp_path / "quality").rename(tmp_path / "moved")
    for folder in (tmp_path / "report", tmp_path / "moved"):
        page = (folder / "index.html").read_text()
        files = re.findall(r'src="([^"]*)"', page)
        assert len(files) == 2 * 4 * 2  # picture and audio of 2 recordings by 4 systems
        for file in files:
            assert (folder / file.replace("%20", " ")).stat().st_size > 0, file
        assert "http" not in page.replace("http-equiv", "")
    assert not list(tmp_path.rglob(".*"))
