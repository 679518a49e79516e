"""`benchmark.py quality`: a table of metrics for a network over schedules and samplers, beside the recordings themselves and
Griffin-Lim. Where the recordings are in several folders, each is a speaker, who has a table too. What is measured stays in the
output folder, so a killed run goes on where it was."""

import sys
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Optional

import torch
from pydantic import create_model

from benchmarking.tools.excerpts import fingerprint, listed, say_which_are_shorter
from benchmarking.tools.journal import Journal
from benchmarking.tools.measuring import Measurer, Measuring, audio_path, save_audio
from benchmarking.tools.progress import progress
from benchmarking.tools.scoring import file_digest
from benchmarking.tools.shape import Shape
from benchmarking.tools.summary import quality_table, speaker_tables, summarize, summarize_speakers, worst_speakers_table
from benchmarking.tools.systems import make_systems, titles
from benchmarking.tools.tables import save_json
from benchmarking.tools.timing import device_name
from benchmarking.tools.workers import default_jobs, start_workers
from common.device import DTYPES, pick_device
from common.errors import InputError, non_negative_int, positive_float, positive_int, seed_int
from common.files import save_text
from metrics import METRICS
from model.schedule_text import FORMS


def add_arguments(parser):
    parser.add_argument("-ch", "--checkpoint", required=True, help="network to measure")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for quality.json, quality.md, the journal and audio/")
    parser.add_argument("--filelist", required=True, help="test recordings")
    parser.add_argument("--schedules", nargs="+", required=True, help=f"each {FORMS}; SCHEDULE@SAMPLER goes with that sampler alone")
    parser.add_argument("--samplers", nargs="+", default=[None], help="(default: what each schedule was made for)")
    parser.add_argument(
        "--gla_grad",
        nargs="+",
        type=non_negative_int,
        default=[0],
        help="iterations of GLA-Grad after sampling; several are compared (default: 0)",
    )
    parser.add_argument(
        "--griffin_lim", type=non_negative_int, default=32, help="iterations of Griffin-Lim; 0 leaves it out (default: %(default)s)"
    )
    slow = [name for name, metric in METRICS.items() if metric.is_slow]
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        default=[name for name in METRICS if name not in slow],
        help=f"(default: all but {' and '.join(slow)}, which take several times as long as the audio)",
    )
    parser.add_argument("--recordings", type=positive_int, help="how many, spread over the filelist (default: all)")
    parser.add_argument("--per_speaker", action="store_true", help="--recordings are of each speaker, who take turns in the list")
    parser.add_argument("--seconds", type=positive_float, help="of each recording (default: all)")
    parser.add_argument("--audio", type=non_negative_int, default=5, help="of how many recordings to keep audio (default: %(default)s)")
    parser.add_argument("--seed", type=seed_int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--resample", action="store_true", help="convert recordings of another sample rate (band-limited)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what the network computes in (default: %(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=default_jobs(), help="processes (default: one a GPU, or a core)")


def entry_model(metrics):
    """The pydantic model of a recording's entry in the journal."""
    figures = create_model("Figures", __base__=Shape, **dict.fromkeys(metrics, (Optional[float], ...)))
    numbers = {"network_calls": (int, ...), "audio_seconds": (float, ...), "synthesis_seconds": (Optional[float], ...)}
    waveform = {"is_finite": (bool, True), "audio_digest": (Optional[str], None)}  # None: no audio was kept
    return create_model("Entry", __base__=Shape, key=(str, ...), recording=(str, ...), **numbers, **waveform, figures=(figures, ...))


def measure_all(systems, measurer, measure, journal, folder):
    """Entries of each system, one for each recording, from the journal or measured now; the audio goes to the folder."""
    known = {(entry["key"], entry["recording"]): entry for entry in journal.entries}
    excerpts = measurer.excerpts

    def is_known(system, index):
        entry = known.get((system.key, excerpts[index].name))
        if entry is None:
            return False
        if not entry["is_finite"] or index >= measurer.measuring.n_audio:
            return True
        path = folder / audio_path(system, excerpts[index])  # it may hold what another schedule of that name made
        return path.is_file() and file_digest(path) == entry.get("audio_digest")

    missing = {}  # what shares a sampling is one task
    for index in range(len(excerpts)):  # metrics cache results of the recording
        for system in systems:
            if not is_known(system, index):
                missing.setdefault((system.sampling, index), []).append(system)
    tasks = [(some, index) for (_, index), some in missing.items()]
    n_waveforms, n_missing = len(systems) * len(excerpts), sum(len(some) for some, _ in tasks)
    with progress(n_waveforms, "waveform", n_waveforms - n_missing) as bar:
        for (some, index), measured in zip(tasks, measure(tasks)):
            for system, (entry, waveform) in zip(some, measured):
                if waveform is not None:
                    path = folder / audio_path(system, excerpts[index])
                    save_audio(path, waveform, measurer.config.mel.sample_rate)
                    entry["audio_digest"] = file_digest(path)
                journal.append(entry)
                known[entry["key"], entry["recording"]] = entry
            bar.update(len(measured))
    return [[known[system.key, excerpt.name] for excerpt in excerpts] for system in systems]


def _examples(systems, by_system, excerpts):
    """What there is to listen to: each recording and its speaker; every system's audio, None where it is not finite, and figures."""

    def example(system, excerpt, entry):
        audio = audio_path(system, excerpt).as_posix() if entry["is_finite"] else None
        return {"system": system.name, "audio": audio, "figures": entry["figures"]}

    return [
        {
            "recording": excerpt.name,
            "speaker": excerpt.speaker,
            "systems": [example(system, excerpt, entries[index]) for system, entries in zip(systems, by_system)],
        }
        for index, excerpt in enumerate(excerpts)
    ]


def _say_what_is_not_finite(systems, by_system):
    """One line for each system with waveforms that are not finite; returns whether a system has no other ones."""
    has_failed = False
    for system, entries in zip(systems, by_system):
        names = [entry["recording"] for entry in entries if not entry["is_finite"]]
        if names:
            print(f"warning: {system.name}: the waveform of {listed(names)} holds NaN or infinity", file=sys.stderr)
        has_failed = has_failed or len(names) == len(entries)
    return has_failed


def _measurer(arguments):
    """The `Measuring` of the arguments, and a `Measurer` of this process: everything is checked here, early."""
    measuring = Measuring(
        arguments.checkpoint,
        arguments.filelist,
        arguments.recordings,
        arguments.seconds,
        tuple(arguments.metrics),
        arguments.seed,
        arguments.audio,
        arguments.dtype,
        arguments.resample,
        arguments.per_speaker,
    )
    measurer = Measurer(measuring, torch.device("cpu"))
    name, count = Counter(excerpt.name for excerpt in measurer.excerpts).most_common(1)[0]
    if count > 1:
        raise InputError(f"{arguments.filelist}: {count} recordings are {name} (wanted: other file names, or folders of other names)")
    return measuring, measurer


def run(arguments):
    systems = make_systems(arguments.schedules, arguments.samplers, arguments.gla_grad, arguments.griffin_lim)
    measuring, measurer = _measurer(arguments)
    say_which_are_shorter(measurer.excerpts, arguments.seconds, measurer.config.mel)
    settings = {
        "checkpoint": file_digest(arguments.checkpoint),
        "recordings": fingerprint(measurer.excerpts),
        "metrics": arguments.metrics,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
    }
    journal = Journal(arguments.output / "journal.jsonl", settings, entry_model(arguments.metrics))
    with closing(journal), start_workers(partial(Measurer, measuring), arguments.jobs) as measure:
        by_system = measure_all(systems, measurer, measure, journal, arguments.output)

    rows = [
        {"title": title} | summarize(system, some, arguments.metrics) for title, system, some in zip(titles(systems), systems, by_system)
    ]
    speakers = summarize_speakers(systems, by_system, [excerpt.speaker for excerpt in measurer.excerpts], arguments.metrics)
    device = pick_device()
    content = settings | {
        "checkpoint": f"{Path(arguments.checkpoint).name}, sha256 {settings['checkpoint']}",
        "device": device_name(device) if device.type == "cuda" else f"{device_name(device)}, one thread",
        "jobs": arguments.jobs,
        "mel": measurer.config.mel.model_dump(),
        "n_recordings": len(measurer.excerpts),
        "audio_seconds": sum(entry["audio_seconds"] for entry in by_system[0]),
        "rows": rows,
        "speakers": speakers,
        "examples": _examples(systems, by_system, measurer.excerpts[: arguments.audio]),
    }
    save_json(content, arguments.output / "quality.json")
    table = quality_table(rows, arguments.metrics)
    if speakers:
        table += "\n" + worst_speakers_table(speakers, arguments.metrics)
    save_text(table + speaker_tables(speakers, arguments.metrics), arguments.output / "quality.md")
    print(table)
    return int(_say_what_is_not_finite(systems, by_system))
