"""Means of what `benchmark.py quality` measured, over all recordings and over those of each speaker, and their tables."""

import numpy as np

from benchmarking.tools.tables import markdown_table, number
from metrics import METRICS


def summarize(system, entries, metrics):
    """One row: means over the recordings, their standard errors, and how many had no value."""
    row = {"system": system.name, "steps": None, "sampler": system.schedule and system.method, "final_noise_level": None}
    if system.schedule is not None:
        row |= {"steps": len(system.schedule), "final_noise_level": float(system.schedule.noise_levels[-1])}
    row["network_calls"] = entries[0]["network_calls"]
    times = [entry["synthesis_seconds"] for entry in entries]
    factors = [time / entry["audio_seconds"] for time, entry in zip(times, entries) if time is not None]
    row["real_time_factor"] = float(np.median(factors)) if factors else None  # an interruption is in one of them alone
    row |= {"means": {}, "standard_errors": {}, "without_value": {}}
    for name in metrics:
        values = [entry["figures"][name] for entry in entries if entry["figures"][name] is not None]
        row["means"][name] = float(np.mean(values)) if values else None
        row["standard_errors"][name] = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        row["without_value"][name] = len(entries) - len(values)
    return row


def summarize_speakers(systems, by_system, speakers, metrics):
    """The rows of each speaker, by name; none where there is one speaker.

    Args:
        by_system: the entries of each system, one for each recording.
        speakers: of each recording.
    """
    names = sorted(set(speakers))
    summaries = []
    for name in names if len(names) > 1 else []:
        own = [index for index, speaker in enumerate(speakers) if speaker == name]
        rows = [summarize(system, [entries[index] for index in own], metrics) for system, entries in zip(systems, by_system)]
        summaries.append({"speaker": name, "n_recordings": len(own), "rows": rows})
    return summaries


def _headings(metrics):
    return [f"{METRICS[name].label} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in metrics]


def quality_table(rows, metrics):
    """The rows as Markdown. A star marks a mean over fewer recordings than there are."""
    lines = []
    for row in rows:
        cells = [number(row["means"][name]) + "*" * bool(row["without_value"][name]) for name in metrics]
        lines.append([row["system"], row["network_calls"] or "-", number(row["real_time_factor"]), *cells])
    is_starred = any(n for row in rows for n in row["without_value"].values())
    table = markdown_table(["system", "calls", "RTF", *_headings(metrics)], lines)
    return table + "\n\\* the mean of fewer recordings: the others have no value\n" * is_starred


def _worst(summaries, index, name):
    """The worst mean of a speaker for a system, by its index, and who that is, as text."""
    means = [(summary["rows"][index]["means"][name], summary["speaker"]) for summary in summaries]
    means = [(mean, speaker) for mean, speaker in means if mean is not None]
    if not means:
        return number(None)
    mean, speaker = (min if METRICS[name].higher_is_better else max)(means)
    return f"{number(mean)} {speaker}"


def worst_speakers_table(summaries, metrics):
    """The worst mean of a speaker for each system and metric, as Markdown, and who has the fewest recordings."""
    systems = [row["system"] for row in summaries[0]["rows"]]
    lines = [[system, *(_worst(summaries, index, name) for name in metrics)] for index, system in enumerate(systems)]
    fewest = min(summaries, key=lambda summary: summary["n_recordings"])
    count = f"{len(summaries)} speakers; the fewest recordings, {fewest['n_recordings']}, are of {fewest['speaker']}"
    return f"The worst mean of a speaker ({count}):\n\n{markdown_table(['system', *_headings(metrics)], lines)}"


def speaker_tables(summaries, metrics):
    """A table for each speaker, as Markdown."""
    return "".join(
        f"\nSpeaker {summary['speaker']}, recordings: {summary['n_recordings']}\n\n{quality_table(summary['rows'], metrics)}"
        for summary in summaries
    )
