"""`benchmark.py report`: one folder with a page to look at and listen to, from a folder that `quality` wrote. The page
opens from disk, without a server."""

import shutil
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from benchmarking.measuring import RECORDING
from benchmarking.metrics import METRICS
from benchmarking.tables import number
from common.audio import read_audio
from common.errors import InputError, naming
from common.files import read_json, save_atomically, save_text
from common.mel_plot import draw_mel, limits_of, save_figure
from common.validation import validating
from model.config import MelConfig
from model.mel import LogMelSpectrogram


def add_arguments(parser):
    parser.add_argument("quality", type=Path, help="folder that 'benchmark.py quality' wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--audio_of", nargs="+", metavar="SYSTEM", help="systems to listen to, by their names in quality.md (default: all)")
    parser.add_argument("--only_mel_of", nargs="+", default=[], metavar="SPEAKER", help="whose recordings are left out, all but their mels")


def _audio_path(folder, text):
    """The place of a relative path in a folder, which must not lead out of it."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{path}: leads out of {folder} (expected: a file in it)")
    return folder / path


def _examples(quality, titles, arguments):
    """What the page shows of each recording. Every file is read here, and nothing is written."""
    mel_transform = LogMelSpectrogram(quality["mel"])
    for example in quality["examples"]:
        systems, limits = [], None
        for system in example["systems"]:
            name, audio = system["system"], system["audio"]
            shown = {"title": titles[name], "figures": system["figures"], "audio": None, "picture": None}
            if audio is None:
                shown["silent"] = "No audio: the waveform holds NaN or infinity."
            else:
                source = _audio_path(arguments.quality, audio)
                waveform = read_audio(source, mel_transform.config.sample_rate)
                with naming(source):
                    mel = mel_transform(waveform)
                limits = limits or limits_of(mel)  # of the first, the recording
                picture = Path("pictures", *Path(audio).parts[1:]).with_suffix(".png")
                shown |= {"source": source, "path": audio, "mel": mel, "limits": limits, "picture": picture.as_posix()}
                is_left_out = name == RECORDING and example["speaker"] in arguments.only_mel_of
                shown |= {"silent": "The recording is not published here."} if is_left_out else {"audio": audio}
            if arguments.audio_of is None or name in arguments.audio_of:
                systems.append(shown)
        yield {"recording": example["recording"], "systems": systems}


def _write(shown, folder, mel_config):
    """The picture of what the page shows, and a copy of its audio."""
    figure = Figure(figsize=(6, 1.8), layout="constrained")
    draw_mel(figure.subplots(), shown["mel"], mel_config, shown["limits"])
    save_figure(figure, folder / shown["picture"])
    copy = folder / shown["path"]
    if shown["audio"] is None:
        copy.unlink(missing_ok=True)  # of an earlier report
    else:
        copy.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(lambda temporary: shutil.copyfile(shown["source"], temporary), copy)


def _check_names(option, names, known):
    for name in sorted(set(names) - set(known)):
        expected = ", ".join(sorted(set(known))) or "a result of 'benchmark.py quality' with --audio of 1 or more"
        raise InputError(f"{option} '{name}': not in the result (expected: {expected})")


def run(arguments):
    path = arguments.quality / "quality.json"
    if not path.exists() and (arguments.quality / "journal.jsonl").is_file():
        raise InputError(f"{arguments.quality}: 'benchmark.py quality' has not finished there (expected: the same command once more)")
    quality = read_json(path, "a result of 'benchmark.py quality'")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    try:
        _check_names("--audio_of", arguments.audio_of or [], [row["system"] for row in quality["rows"]])
        _check_names("--only_mel_of", arguments.only_mel_of, [example["speaker"] for example in quality["examples"]])
        with validating(path):
            quality["mel"] = MelConfig.model_validate(quality["mel"], strict=False)
        titles = {row["system"]: row["title"] for row in quality["rows"]}
        counts = list(titles.values())
        titles = {name: title if counts.count(title) == 1 else f"{title} ({name})" for name, title in titles.items()}
        examples = list(_examples(quality, titles, arguments))
        shown = {"quality": quality, "titles": titles, "examples": examples, "metrics": METRICS, "number": number}
        text = environment.get_template("report.html").render(shown)
    except (KeyError, TypeError, AttributeError, OverflowError, jinja2.TemplateError) as error:
        raise InputError(f"{path}: not a result of 'benchmark.py quality' ({type(error).__name__}: {error})") from None
    if arguments.only_mel_of and arguments.output.resolve() == arguments.quality.resolve():
        raise InputError(f"{arguments.output}: holds the recordings that --only_mel_of leaves out (expected: another --output)")
    for system in (system for example in examples for system in example["systems"] if system["picture"]):
        _write(system, arguments.output, quality["mel"])
    save_text(text, arguments.output / "index.html")
    print(arguments.output / "index.html")
    return 0
