"""Tables for people and for programs, and what they say of the machine."""

import json
import math
from pathlib import Path

import torch

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
