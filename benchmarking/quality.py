"""`benchmark.py quality`: a table of metrics for a network over schedules and samplers, beside the recordings themselves and
Griffin-Lim. Where the recordings are in several folders, each is a speaker, who has a table too. What is measured stays in the
output folder, so a killed run goes on where it was."""

import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np

from benchmarking.excerpts import file_digest, fingerprint, listed
from benchmarking.measuring import Measuring, make_systems, measure, measurer_of
from benchmarking.metrics import METRICS
from benchmarking.results import Results, progress
from benchmarking.tables import device_name, markdown_table, number, save_json
from benchmarking.workers import default_jobs, in_processes
from common.device import DTYPES, pick_device
from common.errors import InputError, non_negative_int, positive_float, positive_int, seed_int
from common.files import save_text
from model.noise_schedule import FORMS


def add_arguments(parser):
    slow = [name for name, metric in METRICS.items() if metric.is_slow]
    parser.add_argument("-ch", "--checkpoint", required=True, help="network to measure")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for quality.json, quality.md, the journal and audio/")
    parser.add_argument("--filelist", required=True, help="test recordings")
    parser.add_argument("--schedules", nargs="+", required=True, help=f"each {FORMS}; SCHEDULE@SAMPLER goes with that sampler alone")
    parser.add_argument("--samplers", nargs="+", default=[None], help="(default: what each schedule was made for)")
    parser.add_argument("--gla_grad", nargs="+", type=non_negative_int, default=[0], help="iterations of GLA-Grad; several are compared")
    parser.add_argument("--griffin_lim", type=non_negative_int, default=32, help="iterations of Griffin-Lim; 0 leaves it out (default: 32)")
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


def measure_all(systems, measurer, jobs):
    """The entries of each system, one for each recording, as they are known already or measured now."""
    measuring, excerpts, results = measurer.measuring, measurer.excerpts, Results(measurer.measuring.output / "journal.jsonl")

    def known(system, index):
        entry = results.get(measurer.source, system.source, excerpts[index].name)
        if entry is None or not entry["is_finite"] or index >= measuring.audio:
            return entry
        path = measuring.output / measuring.audio_path(system, excerpts[index])  # it may hold what another schedule of that name made
        return entry if path.is_file() and file_digest(path) == entry["audio_digest"] else None

    # In the order of the recordings: metrics cache results of them.
    found = {(system, index): known(system, index) for index in range(len(excerpts)) for system in systems}
    tasks = [task for task, entry in found.items() if entry is None]
    with progress(len(found), "waveform", len(found) - len(tasks)) as bar:
        entries = in_processes(measure, [(measuring, *task) for task in tasks], jobs)
        for (system, index), entry in zip(tasks, entries):
            results.add(entry, measurer.source, system.source, excerpts[index].name)
            found[system, index] = entry
            bar.update()
    return [[found[system, index] for index in range(len(excerpts))] for system in systems]


def summarize(system, entries, metrics):
    """A row of the table: means over the recordings, their standard errors, and how many had no value."""
    figures = {name: [entry["figures"][name] for entry in entries if entry["figures"][name] is not None] for name in metrics}
    factors = [entry["synthesis_seconds"] / entry["audio_seconds"] for entry in entries if entry["synthesis_seconds"] is not None]
    errors = {name: float(np.std(some, ddof=1) / len(some) ** 0.5) if len(some) > 1 else None for name, some in figures.items()}
    return {
        "system": system.name,
        "title": system.title,
        "sampler": system.sampler,
        "network_calls": len(system.schedule) if system.sampler else 0,
        "real_time_factor": float(np.median(factors)) if factors else None,  # an interruption is in one of them alone
        "n_recordings": len(entries),
        "means": {name: float(np.mean(values)) if values else None for name, values in figures.items()},
        "standard_errors": errors,
        "without_value": {name: len(entries) - len(values) for name, values in figures.items()},
    }


def quality_table(rows, metrics):
    """The rows as Markdown. A star marks a mean over fewer recordings than there are."""
    headings = [f"{METRICS[name].label} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in metrics]
    lines = []
    for row in rows:
        cells = [number(row["means"][name]) + "*" * bool(row["without_value"][name]) for name in metrics]
        lines.append([row["system"], row["network_calls"] or "-", number(row["real_time_factor"]), *cells])
    is_starred = any(n for row in rows for n in row["without_value"].values())
    table = markdown_table(["system", "calls", "RTF", *headings], lines)
    return table + "\n\\* the mean of fewer recordings: the others have no value\n" * is_starred


def run(arguments):
    systems = make_systems(arguments.schedules, arguments.samplers, arguments.gla_grad, arguments.griffin_lim)
    arguments.metrics = tuple(arguments.metrics)
    measuring = Measuring(**{field.name: getattr(arguments, field.name) for field in fields(Measuring)})
    measurer = measurer_of(measuring)  # everything is checked here, early
    excerpts, metrics = measurer.excerpts, measuring.metrics
    name, count = Counter(excerpt.name for excerpt in excerpts).most_common(1)[0]
    if count > 1:
        raise InputError(f"{arguments.filelist}: {count} recordings are {name} (expected: other file names, or folders of other names)")
    by_system = measure_all(systems, measurer, arguments.jobs)

    rows = [summarize(system, entries, metrics) for system, entries in zip(systems, by_system)]
    table, speakers, names = quality_table(rows, metrics), {}, sorted({excerpt.speaker for excerpt in excerpts})
    text = table
    for speaker in names if len(names) > 1 else ():
        own = [index for index, excerpt in enumerate(excerpts) if excerpt.speaker == speaker]
        speakers[speaker] = [summarize(system, [some[i] for i in own], metrics) for system, some in zip(systems, by_system)]
        text += f"\nSpeaker {speaker}, recordings: {len(own)}\n\n{quality_table(speakers[speaker], metrics)}"
    examples = []
    for index, excerpt in enumerate(excerpts[: arguments.audio]):
        parts = []
        for system, some in zip(systems, by_system):
            audio = measuring.audio_path(system, excerpt).as_posix() if some[index]["is_finite"] else None
            parts.append({"system": system.name, "audio": audio, "figures": some[index]["figures"]})
        examples.append({"recording": excerpt.name, "speaker": excerpt.speaker, "systems": parts})
    content = {
        "checkpoint": f"{Path(arguments.checkpoint).name}, sha256 {file_digest(arguments.checkpoint)}",
        "recordings": fingerprint(excerpts),
        "metrics": metrics,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        "device": f"{device_name(pick_device())}, {arguments.jobs} processes of one thread",
        "mel": measurer.config.mel.model_dump(),
        "n_recordings": len(excerpts),
        "audio_seconds": sum(entry["audio_seconds"] for entry in by_system[0]),
        "rows": rows,
        "speakers": speakers,
        "examples": examples,
    }
    save_json(content, arguments.output / "quality.json")
    save_text(text, arguments.output / "quality.md")
    print(table)
    broken = {system.name: [entry["recording"] for entry in some if not entry["is_finite"]] for system, some in zip(systems, by_system)}
    for system, names in broken.items():
        if names:
            print(f"warning: {system}: the waveform of {listed(names)} holds NaN or infinity", file=sys.stderr)
    return int(any(len(names) == len(excerpts) for names in broken.values()))
