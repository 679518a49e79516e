"""`quality.json`, which `benchmark.py quality` writes and `benchmark.py report` reads."""

import re
from typing import Annotated, Optional

from pydantic import AfterValidator, model_validator

from benchmarking.tools.shape import Shape, shaped
from common.errors import InputError
from common.files import read_json
from metrics import METRICS
from model.config import MelConfig


def _metric(name):
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is unknown (wanted: {', '.join(METRICS)})")
    return name


def _audio(path):
    # What `measuring.audio_path` makes, so it names no other place and no other kind of file.
    if not re.fullmatch(r"audio/((?!\.\.?/)[^/\0]+/){1,2}[A-Za-z0-9._-]+\.flac", path):
        raise ValueError(f"{path!r} is no path of audio (wanted: audio/[SPEAKER/]RECORDING/SYSTEM.flac)")
    return path


Figures = dict[str, Optional[float]]


class Row(Shape):
    system: str
    title: Optional[str] = None
    sampler: Optional[str]
    network_calls: int
    real_time_factor: Optional[float]
    means: Figures
    without_value: dict[str, int]

    @property
    def shown(self):
        """What listeners are told that the system is."""
        return self.title or self.system


class ExampleSystem(Shape):
    system: str
    audio: Optional[Annotated[str, AfterValidator(_audio)]]  # None: the waveform holds NaN or infinity
    figures: Figures


class Example(Shape):
    recording: str
    speaker: str = ""
    systems: list[ExampleSystem]


class Speaker(Shape):
    speaker: str
    n_recordings: int
    rows: list[Row]


class Quality(Shape):
    """What a report needs of the file."""

    checkpoint: str
    device: str
    jobs: int
    metrics: list[Annotated[str, AfterValidator(_metric)]]
    mel: MelConfig
    n_recordings: int
    audio_seconds: float
    rows: list[Row]
    speakers: tuple[Speaker, ...] = ()  # none where there is one speaker
    examples: list[Example]

    @property
    def titles(self):
        """What listeners are told that each system is, by its name."""
        return {row.system: row.shown for row in self.rows}

    @model_validator(mode="after")
    def _check(self):
        figures = [(f"rows.{i}.{key}", getattr(row, key)) for i, row in enumerate(self.rows) for key in ("means", "without_value")]
        for i, speaker in enumerate(self.speakers):
            rows = enumerate(speaker.rows)
            figures += [(f"speakers.{i}.rows.{j}.{key}", getattr(row, key)) for j, row in rows for key in ("means", "without_value")]
        for i, example in enumerate(self.examples):
            figures += [(f"examples.{i}.systems.{j}.figures", system.figures) for j, system in enumerate(example.systems)]
        for place, of_metrics in figures:
            for name in self.metrics:
                if name not in of_metrics:
                    raise ValueError(f"missing key '{place}.{name}'")
        return self


def load_quality(folder):
    """The `Quality` of a folder.

    Raises:
        OSError: there is no such file, or it cannot be read.
        InputError: it is of another shape, or its measurement has not ended.
    """
    path = folder / "quality.json"
    if not path.exists() and (folder / "journal.jsonl").is_file():
        raise InputError(f"{folder}: 'benchmark.py quality' has not finished there (wanted: the same command once more, which goes on)")
    return shaped(Quality, read_json(path, "a result of 'benchmark.py quality'"), path)
