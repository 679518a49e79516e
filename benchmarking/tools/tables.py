"""Tables for people and for programs."""

import json
import math
import os

from common.errors import InputError
from common.files import check_not_input, save_text


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


def check_output(path, inputs=()):
    """Checks, before anything is computed, that a file can be written.

    Args:
        inputs: paths that are read; None stands for an input that is not given.

    Raises:
        OSError: its folder is missing, or may not be written to.
        InputError: it is no place for a file, or one of the inputs.
    """
    check_not_input(path, inputs)
    if path.name in ("", "..") or path.is_dir():
        raise InputError(f"{path}: cannot be written (wanted: the name of a file)")
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "No such folder", str(path.parent))
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(13, "Permission denied", str(path.parent))


def save_json(content, path):
    """Writes JSON, atomically; what has no value must be None, for JSON has no NaN."""
    save_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path)
