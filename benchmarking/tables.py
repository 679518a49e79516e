"""Tables for people and for programs, and what they say of the machine."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from benchmarking.metrics import METRICS
from common.files import save_text


def markdown_table(headings, rows):
    """A Markdown table with aligned columns; the first is text, the others are numbers."""
    cells = [[str(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(headings))]
    pad = [str.ljust if column == 0 else str.rjust for column in range(len(headings))]
    lines = ["| " + " | ".join(pad[i](cell, widths[i]) for i, cell in enumerate(row)) + " |" for row in cells]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines) + "\n"


def number(value, digits=3):
    """A number with so many digits after the point; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def save_json(content, path):
    """Writes JSON, atomically; what has no value must be None, for JSON has no NaN."""
    save_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path)


def device_name(device):
    """The device in words; of a CPU the widest instructions that PyTorch uses too, and its hardware for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    found = getattr(torch.cpu, "get_capabilities", dict)()
    bfloat16 = [label for key, label in (("avx512_bf16", "AVX-512 BF16"), ("amx_bf16", "AMX")) if found.get(key)]
    return f"{name} ({', '.join([torch.backends.cpu.get_cpu_capability(), *bfloat16])})"


def summarize(system, entries, metrics):
    """One row of `benchmark.py quality`: means over the recordings, their standard errors, and how many had no value."""
    figures = {name: [entry["figures"][name] for entry in entries if entry["figures"][name] is not None] for name in metrics}
    factors = [entry["synthesis_seconds"] / entry["audio_seconds"] for entry in entries if entry["synthesis_seconds"] is not None]
    return {
        "system": system.name,
        "title": system.title,
        "steps": len(system.schedule) if system.sampler else None,
        "sampler": system.sampler and " ".join([system.sampler, *([f"gla-grad-{system.gla_grad}"] if system.gla_grad else [])]),
        "network_calls": entries[0]["network_calls"],
        "real_time_factor": float(np.median(factors)) if factors else None,  # an interruption is in one of them alone
        "n_recordings": len(entries),
        "means": {name: float(np.mean(values)) if values else None for name, values in figures.items()},
        "standard_errors": {
            name: float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None for name, values in figures.items()
        },
        "without_value": {name: len(entries) - len(values) for name, values in figures.items()},
    }


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


def speaker_tables(speakers, metrics):
    """The rows of each speaker, by name, as Markdown."""
    return "".join(
        f"\nSpeaker {speaker}, recordings: {rows[0]['n_recordings']}\n\n{quality_table(rows, metrics)}"
        for speaker, rows in speakers.items()
    )
