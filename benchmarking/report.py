"""`benchmark.py report`: one folder with a page to look at and listen to, from a folder that `quality` wrote. The page
opens from disk, without a server."""

from pathlib import Path
from urllib.parse import quote

import jinja2
from matplotlib.figure import Figure

from benchmarking.measuring import RECORDING
from benchmarking.metrics import METRICS
from benchmarking.tables import number
from common.audio import read_audio
from common.errors import InputError, naming
from common.files import read_json, save_atomically, save_text
from common.mel_plot import draw_mel, limits_of
from common.validation import validating
from model.config import MelConfig
from model.mel import LogMelSpectrogram


def load_quality(folder):
    """What `benchmark.py quality` wrote in a folder, its `mel` as a `MelConfig`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        InputError: it is something else, or its measurement has not ended.
    """
    path = folder / "quality.json"
    if not path.exists() and (folder / "journal.jsonl").is_file():
        raise InputError(f"{folder}: 'benchmark.py quality' has not finished there (expected: the same command once more, which goes on)")
    quality = read_json(path, "a result of 'benchmark.py quality'")
    try:
        quality = {"speakers": {}} | quality
        for row in [*quality["rows"], *(row for rows in quality["speakers"].values() for row in rows)]:
            for name in quality["metrics"]:
                METRICS[name], number(row["means"][name]), row["without_value"][name]
            row["system"], row["title"], row["sampler"], row["network_calls"], number(row["real_time_factor"])
        for example in quality["examples"]:
            for system in example["systems"]:
                for name in quality["metrics"]:
                    number(system["figures"][name])
                if system["audio"] is not None:
                    inside(folder, Path(system["audio"]))
            example["recording"], example["speaker"]
        quality["checkpoint"], quality["device"], f"{quality['n_recordings']:d} {quality['audio_seconds']:.0f}"
        mel = quality["mel"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a result of 'benchmark.py quality' ({type(error).__name__}: {error})") from None
    with validating(path):
        return quality | {"mel": MelConfig.model_validate(mel, strict=False)}


def inside(folder, path):
    """The place of a relative path in a folder.

    Raises:
        InputError: it leads out of the folder, by itself or by a link.
    """
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{place}: leads out of {folder} (expected: a file in it)")
    return place


def _save(figure, path, dpi):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda temporary: figure.savefig(temporary, dpi=dpi, format="png"), path)


def _spectrogram(path, mel_transform):
    audio = read_audio(path, mel_transform.config.sample_rate)
    with naming(path):
        return mel_transform(audio)


def _example(example, titles, mel_transform, source, folder, only_mel, wanted):
    """Copies a recording's audio and draws its mels; returns what the page needs of it.

    Args:
        titles: of the systems, by their names.
        only_mel: the recording itself stays where it is.
        expected: names of the systems, or None for all.
    """
    systems, limits = [], None
    for system in example["systems"]:
        spectrogram = system["audio"] and _spectrogram(inside(source, system["audio"]), mel_transform)
        limits = limits or (limits_of(spectrogram) if system["audio"] else None)  # of the first, the recording
        if wanted is not None and system["system"] not in wanted:
            continue
        shown = {"title": titles.get(system["system"], system["system"]), "figures": system["figures"]}
        if system["audio"] is None:
            systems.append(shown | {"audio": None, "picture": None, "silent": "No audio: the waveform holds NaN or infinity."})
            continue
        audio, copy = inside(source, system["audio"]), inside(folder, system["audio"])
        is_left_out = only_mel and system["system"] == RECORDING
        if is_left_out:
            copy.unlink(missing_ok=True)  # of an earlier report
        elif audio.resolve() != copy.resolve():  # a report may be made in the folder itself
            copy.parent.mkdir(parents=True, exist_ok=True)
            content = audio.read_bytes()
            save_atomically(lambda temporary: temporary.write_bytes(content), copy)
        picture = Path("pictures", *Path(system["audio"]).parts[1:]).with_suffix(".png")
        figure = Figure(figsize=(6, 1.8), layout="constrained")
        draw_mel(figure.subplots(), spectrogram, mel_transform.config, limits)
        _save(figure, inside(folder, picture), dpi=100)
        shown |= {"audio": None if is_left_out else quote(system["audio"]), "picture": quote(picture.as_posix())}
        systems.append(shown | {"silent": "The recording is not published here." if is_left_out else None})
    return {"recording": example["recording"], "systems": systems}


def add_arguments(parser):
    parser.add_argument("quality", type=Path, help="folder that 'benchmark.py quality' wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--audio_of", nargs="+", metavar="SYSTEM", help="systems to listen to, by their names in quality.md (default: all)")
    parser.add_argument("--only_mel_of", nargs="+", default=[], metavar="SPEAKER", help="whose recordings are left out, all but their mels")


def _check_names(option, names, known, other):
    for name in sorted(set(names) - set(known)):
        raise InputError(f"{option} '{name}': not in the result (expected: {', '.join(sorted(known)) or other})")


def run(arguments):
    quality = load_quality(arguments.quality)
    mel_transform, examples = LogMelSpectrogram(quality["mel"]), quality["examples"]
    other = "a result of 'benchmark.py quality' with --audio of 1 or more"
    _check_names("--audio_of", arguments.audio_of or [], {system["system"] for one in examples for system in one["systems"]}, other)
    _check_names("--only_mel_of", arguments.only_mel_of, {example["speaker"] for example in examples} - {""}, other)
    if arguments.only_mel_of and arguments.output.resolve() == arguments.quality.resolve():
        raise InputError(f"{arguments.output}: holds the recordings that --only_mel_of leaves out (expected: another --output)")
    for system in (system for example in examples for system in example["systems"]):
        if system["audio"] is not None:
            _spectrogram(inside(arguments.quality, system["audio"]), mel_transform)  # what is wrong is said before anything is written
            inside(arguments.output, system["audio"])
    titles = {row["system"]: row["title"] for row in quality["rows"]}
    counts = list(titles.values())
    titles = {name: title if counts.count(title) == 1 else f"{title} ({name})" for name, title in titles.items()}
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html")
    text = page.render(
        quality=quality,
        titles=titles,
        metrics=METRICS,
        number=number,
        examples=[
            _example(
                example,
                titles,
                mel_transform,
                arguments.quality,
                arguments.output,
                only_mel=example["speaker"] in arguments.only_mel_of,
                wanted=arguments.audio_of,
            )
            for example in examples
        ],
    )
    save_text(text, arguments.output / "index.html")
    print(arguments.output / "index.html")
    return 0
