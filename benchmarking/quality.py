"""`benchmark.py quality`: a table of metrics for a network over schedules and samplers, beside the recordings themselves and
Griffin-Lim. Where the recordings are in several folders, each is a speaker, who has a table too. What is measured stays in the
output folder, so a killed run goes on where it was."""

import sys
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from benchmarking.excerpts import file_digest, fingerprint, listed, say_which_are_shorter
from benchmarking.journal import Journal, progress
from benchmarking.measuring import Measurer, Measuring, make_systems
from benchmarking.metrics import METRICS
from benchmarking.tables import device_name, quality_table, save_json, speaker_tables, summarize
from benchmarking.workers import default_jobs, start_workers
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


def measure_all(systems, measurer, measure, journal):
    """The entries of each system, one for each recording, from the journal or measured now."""
    known = {(entry["key"], entry["recording"]): entry for entry in journal.entries}
    measuring, excerpts = measurer.measuring, measurer.excerpts

    def is_known(system, index):
        entry = known.get((system.key, excerpts[index].name))
        if entry is None or not entry["is_finite"] or index >= measuring.n_audio:
            return entry is not None
        path = measuring.folder / measuring.audio_path(system, excerpts[index])  # it may hold what another schedule of that name made
        return path.is_file() and file_digest(path) == entry["audio_digest"]

    # In the order of the recordings: metrics cache results of them.
    tasks = [(system, index) for index in range(len(excerpts)) for system in systems if not is_known(system, index)]
    n = len(systems) * len(excerpts)
    with progress(n, "waveform", n - len(tasks)) as bar:
        for entry in measure(tasks):
            journal.append(entry)
            known[entry["key"], entry["recording"]] = entry
            bar.update()
    return [[known[system.key, excerpt.name] for excerpt in excerpts] for system in systems]


def run(arguments):
    systems = make_systems(arguments.schedules, arguments.samplers, arguments.gla_grad, arguments.griffin_lim)
    keys = ("checkpoint", "filelist", "recordings", "seconds", "metrics", "seed", "per_speaker", "output", "audio", "dtype", "resample")
    measuring = Measuring(*(getattr(arguments, key) for key in keys))
    measurer = Measurer(measuring, torch.device("cpu"))  # everything is checked here, early
    excerpts = measurer.excerpts
    name, count = Counter(excerpt.name for excerpt in excerpts).most_common(1)[0]
    if count > 1:
        raise InputError(f"{arguments.filelist}: {count} recordings are {name} (expected: other file names, or folders of other names)")
    say_which_are_shorter(excerpts, arguments.seconds, measurer.config.mel)
    settings = {"checkpoint": file_digest(arguments.checkpoint), "recordings": fingerprint(excerpts)}
    settings |= {"metrics": arguments.metrics, "seed": arguments.seed, "dtype": arguments.dtype}
    journal = Journal(arguments.output / "journal.jsonl", settings)
    with closing(journal), start_workers(partial(Measurer, measuring), arguments.jobs) as measure:
        by_system = measure_all(systems, measurer, measure, journal)

    rows = [summarize(system, entries, arguments.metrics) for system, entries in zip(systems, by_system)]
    speakers = {}
    for speaker in sorted({excerpt.speaker for excerpt in excerpts}):
        own = [index for index, excerpt in enumerate(excerpts) if excerpt.speaker == speaker]
        speakers[speaker] = [summarize(system, [some[i] for i in own], arguments.metrics) for system, some in zip(systems, by_system)]
    speakers = speakers if len(speakers) > 1 else {}
    examples = [
        {
            "recording": excerpt.name,
            "speaker": excerpt.speaker,
            "systems": [
                {
                    "system": system.name,
                    "audio": measuring.audio_path(system, excerpt).as_posix() if some[index]["is_finite"] else None,
                    "figures": some[index]["figures"],
                }
                for system, some in zip(systems, by_system)
            ],
        }
        for index, excerpt in enumerate(excerpts[: arguments.audio])
    ]
    content = settings | {
        "checkpoint": f"{Path(arguments.checkpoint).name}, sha256 {settings['checkpoint']}",
        "device": f"{device_name(pick_device())}, {arguments.jobs} processes of one thread",
        "mel": measurer.config.mel.model_dump(),
        "n_recordings": len(excerpts),
        "audio_seconds": sum(entry["audio_seconds"] for entry in by_system[0]),
        "rows": rows,
        "speakers": speakers,
        "examples": examples,
    }
    save_json(content, arguments.output / "quality.json")
    table = quality_table(rows, arguments.metrics)
    save_text(table + speaker_tables(speakers, arguments.metrics), arguments.output / "quality.md")
    print(table)
    has_failed = False
    for system, entries in zip(systems, by_system):
        names = [entry["recording"] for entry in entries if not entry["is_finite"]]
        has_failed |= len(names) == len(entries)
        if names:
            print(f"warning: {system.name}: the waveform of {listed(names)} holds NaN or infinity", file=sys.stderr)
    return int(has_failed)
