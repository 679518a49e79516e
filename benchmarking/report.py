"""`benchmark.py report`: one folder with a page to look at and listen to, from a folder that `quality` wrote. The page
opens from disk, without a server."""

from pathlib import Path
from urllib.parse import quote

import jinja2

from benchmarking.tools.pictures import save_mel_picture, save_plot
from benchmarking.tools.quality_file import load_quality
from benchmarking.tools.systems import RECORDING
from benchmarking.tools.tables import number
from common.audio import read_audio
from common.errors import InputError, naming
from common.files import save_atomically, save_text
from common.mel_plot import limits_of
from metrics import METRICS
from model.mel.transform import LogMelSpectrogram

PLOTTED = ["pesq", "log_mel_l1"]
PLOTS = [("network_calls", "network calls"), ("real_time_factor", "real-time factor")]


def inside(folder, path):
    """The place of a relative path in a folder.

    Raises:
        InputError: it leads out of the folder, by itself or by a link.
    """
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{place}: leads out of {folder} (wanted: a file in it)")
    return place


def _plots(quality, folder):
    """Draws quality against steps and real-time factor; returns file and alternative text of each plot."""
    rows = [row for row in quality.rows if row.sampler is not None]
    references = [row for row in quality.rows if row.sampler is None and row.system != RECORDING]
    plots = []
    for metric in [name for name in PLOTTED if name in quality.metrics] or quality.metrics[:1]:
        for key, label in PLOTS:
            file = f"pictures/{metric}-{key}.png"
            save_plot(rows, references, metric, key, label, inside(folder, file))
            plots.append({"file": file, "alt": f"{METRICS[metric].label} against {label}"})
    return plots


def _spectrogram(path, mel_transform):
    audio = read_audio(path, mel_transform.config.sample_rate)
    with naming(path):
        return mel_transform(audio)


def _example(example, titles, mel_transform, source, folder, only_mel, wanted):
    """Copies a recording's audio and draws its mels; returns what the page needs of it.

    Args:
        titles: of the systems, by their names.
        only_mel: the recording itself stays where it is.
        wanted: names of the systems, or None for all.
    """
    systems = []
    of_recording = next((system.audio for system in example.systems if system.system == RECORDING and system.audio), None)
    limits = limits_of(_spectrogram(inside(source, of_recording), mel_transform)) if of_recording else None
    for system in example.systems if wanted is None else [system for system in example.systems if system.system in wanted]:
        shown = {"title": titles.get(system.system, system.system), "figures": system.figures}
        if system.audio is None:
            systems.append(shown | {"audio": None, "picture": None, "silent": "No audio: the waveform holds NaN or infinity."})
            continue
        audio, copy = inside(source, system.audio), inside(folder, system.audio)
        spectrogram = _spectrogram(audio, mel_transform)
        is_left_out = only_mel and system.system == RECORDING
        if is_left_out:
            copy.unlink(missing_ok=True)  # of an earlier report
        copy.parent.mkdir(parents=True, exist_ok=True)
        if audio.resolve() != copy.resolve() and not is_left_out:  # a report may be made in the folder itself
            content = audio.read_bytes()
            save_atomically(lambda temporary: temporary.write_bytes(content), copy)
        picture = Path("pictures", *Path(system.audio).parts[1:]).with_suffix(".png")
        inside(folder, picture).parent.mkdir(parents=True, exist_ok=True)
        limits = limits or limits_of(spectrogram)
        save_mel_picture(spectrogram, mel_transform.config, folder / picture, limits)
        shown |= {"audio": None if is_left_out else quote(system.audio), "picture": quote(picture.as_posix())}
        systems.append(shown | {"silent": "The recording is not published here." if is_left_out else None})
    return {"recording": example.recording, "systems": systems}


def add_arguments(parser):
    parser.add_argument("quality", type=Path, help="folder that 'benchmark.py quality' wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--audio_of", nargs="+", metavar="SYSTEM", help="which systems to listen to, by their names in quality.md (default: all)"
    )
    parser.add_argument(
        "--only_mel_of",
        nargs="+",
        default=[],
        metavar="SPEAKER",
        help="whose recordings are left out, all but their mels",
    )


def run(arguments):
    quality = load_quality(arguments.quality)
    mel_transform = LogMelSpectrogram(quality.mel)
    names = [system.system for example in quality.examples[:1] for system in example.systems]
    for name in sorted(set(arguments.audio_of or []) - set(names)):
        wanted = f"one of {', '.join(names)}" if names else "a result of 'benchmark.py quality' with --audio of 1 or more"
        raise InputError(f"--audio_of '{name}': no such system with audio (wanted: {wanted})")
    speakers = {example.speaker for example in quality.examples} - {""}
    for name in sorted(set(arguments.only_mel_of) - speakers):
        wanted = f"one of {', '.join(sorted(speakers))}" if speakers else "a result of 'benchmark.py quality' that names speakers"
        raise InputError(f"--only_mel_of '{name}': no recording with audio is of that speaker (wanted: {wanted})")
    if arguments.only_mel_of and arguments.output.resolve() == arguments.quality.resolve():
        raise InputError(f"{arguments.output}: holds the recordings that --only_mel_of leaves out (wanted: another --output)")
    for system in (system for example in quality.examples for system in example.systems):
        if system.audio is not None:
            _spectrogram(inside(arguments.quality, system.audio), mel_transform)  # what is wrong is said before anything is written
            inside(arguments.output, system.audio)
    (arguments.output / "pictures").mkdir(parents=True, exist_ok=True)
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html")
    text = page.render(
        quality=quality,
        metrics=METRICS,
        number=number,
        plots=_plots(quality, arguments.output),
        examples=[
            _example(
                example,
                quality.titles,
                mel_transform,
                arguments.quality,
                arguments.output,
                only_mel=example.speaker in arguments.only_mel_of,
                wanted=arguments.audio_of,
            )
            for example in quality.examples
        ],
    )
    save_text(text, arguments.output / "index.html")
    print(arguments.output / "index.html")
    return 0
