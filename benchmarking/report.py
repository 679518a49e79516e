"""`benchmark.py report`: one folder with a page to look at and listen to, from a folder that `quality` wrote. The page
opens from disk, without a server."""

import json
import shutil
from pathlib import Path
from urllib.parse import quote

import jinja2
import soundfile
import torch

from benchmarking.pictures import save_mel_picture, save_plot
from benchmarking.systems import RECORDING
from benchmarking.tables import number
from metrics import METRICS
from model.config import MelConfig
from model.errors import InputError
from model.files import save_text
from model.mel import LogMelSpectrogram

PLOTTED = ["pesq", "log_mel_l1"]
PLOTS = [("network_calls", "network calls"), ("real_time_factor", "real-time factor")]


def _load_quality(folder):
    path = folder / "quality.json"
    try:
        quality = json.loads(path.read_text(encoding="utf-8"))
        quality["rows"], quality["examples"], quality["mel"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a result of 'benchmark.py quality'") from None
    return quality


def _plots(quality, folder):
    """Draws quality against steps and real-time factor; returns file and alternative text of each plot."""
    rows = [row for row in quality["rows"] if row["sampler"] is not None]
    references = [row for row in quality["rows"] if row["sampler"] is None and row["system"] != RECORDING]
    plots = []
    for metric in [name for name in PLOTTED if name in quality["metrics"]] or quality["metrics"][:1]:
        for key, label in PLOTS:
            file = f"pictures/{metric}-{key}.png"
            save_plot(rows, references, metric, key, label, folder / file)
            plots.append({"file": file, "alt": f"{METRICS[metric].label} against {label}"})
    return plots


def _example(example, mel, source, folder):
    """Copies a recording's audio and draws its mels; returns what the page needs of it."""
    systems, limits = [], None
    for system in example["systems"]:
        audio = folder / system["audio"]
        audio.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / system["audio"], audio)
        waveform, _ = soundfile.read(audio, dtype="float32")
        picture = Path(system["audio"].replace("audio/", "pictures/", 1)).with_suffix(".png")
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        spectrogram = mel(torch.from_numpy(waveform))
        limits = limits or (float(spectrogram.min()), float(spectrogram.max()))  # the recording's, which comes first
        save_mel_picture(spectrogram, mel.config, folder / picture, limits)
        systems.append(system | {"audio": quote(system["audio"]), "picture": quote(picture.as_posix())})
    return example | {"systems": systems}


def add_arguments(parser):
    parser.add_argument("quality", type=Path, help="folder that 'benchmark.py quality' wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")


def run(arguments):
    quality = _load_quality(arguments.quality)
    mel = LogMelSpectrogram(MelConfig(**quality["mel"]))
    (arguments.output / "pictures").mkdir(parents=True, exist_ok=True)
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html")
    text = page.render(
        quality=quality,
        metrics=METRICS,
        number=number,
        plots=_plots(quality, arguments.output),
        examples=[_example(example, mel, arguments.quality, arguments.output) for example in quality["examples"]],
    )
    save_text(text, arguments.output / "index.html")
    print(arguments.output / "index.html")
    return 0
