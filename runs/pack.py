"""Packs what a training run on another machine needs into one folder: recordings of the cleanest voices, lists, configuration, weights.

`python -m runs.pack CONFIG FOLDER`; there, `sh runs/train.sh -c FOLDER/config.json`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import soundfile

from benchmarking.excerpts import of_each_speaker
from common.audio import Conversions
from common.errors import CommandParser, InputError, positive_float, positive_int, run_command
from common.files import read_json, save_text
from datasets import Recordings
from model.config import load_config

N_JUDGED = 3  # recordings of a voice that say how clean it is


def dynamic_range(waveforms, sample_rate):
    """How far speech `[T]` is above what is behind it, in dB: 95 % and 5 % of the levels of 20 ms."""
    levels = [waveform.unfold(0, sample_rate // 50, sample_rate // 50).abs().mean(1).numpy() for waveform in waveforms]
    loud, soft = np.percentile(np.concatenate(levels), [95, 5])
    return 20 * np.log10(loud / max(soft, 1e-5))


def with_schedules(section, source, folder):
    """A section of a configuration whose noise schedules, copied to a folder, are named relative to that."""
    if isinstance(section, dict):
        return {key: with_schedules(value, source, folder) for key, value in section.items()}
    if isinstance(section, list):
        return [with_schedules(value, source, folder) for value in section]
    if isinstance(section, str) and (source / section).suffix == ".json" and (source / section).is_file():
        return shutil.copy(source / section, folder / Path(section).name).name
    return section


def main(argv=None):
    parser = CommandParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--speakers", type=positive_int, default=20, help="how many voices, named by the recordings' folders (default: 20)")
    parser.add_argument("--megabytes", type=positive_float, default=60.0, help="of all, at most (default: 60)")
    parser.add_argument("--weights", type=Path, help="weights to pack, too, for --init_from")
    arguments = parser.parse_args(argv)
    config, source = load_config(arguments.config), arguments.config.parent
    data, rate = config.data, config.mel.sample_rate
    if arguments.folder.exists():
        raise InputError(f"{arguments.folder}: expected a new folder, got one that is there")
    conversions = Conversions(data.mix_to_mono, data.resample)
    validation, train = (Recordings(source / path, config.mel, conversions) for path in (data.validation_filelist, data.train_filelist))
    cleanness = {}
    for speaker in sorted(set(validation.speakers).intersection(train.speakers)):
        judged = [index for index, name in enumerate(train.speakers) if name == speaker][:N_JUDGED]
        cleanness[speaker] = dynamic_range([train[index] for index in judged], rate)
    chosen = sorted(cleanness, key=cleanness.get, reverse=True)[: arguments.speakers]
    arguments.folder.mkdir(parents=True)
    if arguments.weights:
        shutil.copy(arguments.weights, arguments.folder)
    left = arguments.megabytes * 1e6 - sum(path.stat().st_size for path in arguments.folder.iterdir())
    for name, recordings, n_each in (("validation", validation, 1), ("train", train, len(train))):
        own = [index for index, speaker in enumerate(recordings.speakers) if speaker in chosen]
        lines = []
        for place in of_each_speaker([recordings.speakers[index] for index in own], n_each):
            path = recordings.paths[own[place]]
            target = Path(path.parent.name, f"{path.stem}.flac")
            (arguments.folder / target.parent).mkdir(exist_ok=True)
            soundfile.write(arguments.folder / target, recordings[own[place]].numpy(), rate, subtype="PCM_16")
            left -= (arguments.folder / target).stat().st_size
            if left < 0:
                (arguments.folder / target).unlink()
                break
            lines.append(f"{target}\n")
        save_text("".join(lines), arguments.folder / f"{name}.txt")
        print(f"{name}: {len(lines)} recordings")
    content = with_schedules(read_json(arguments.config, "a configuration"), source, arguments.folder)
    content["data"] |= {"train_filelist": "train.txt", "validation_filelist": "validation.txt"}
    save_text(json.dumps(content, indent=2) + "\n", arguments.folder / "config.json")
    print(
        f"{arguments.folder}: {sum(path.stat().st_size for path in arguments.folder.rglob('*')) / 1e6:.1f} MB, voices {', '.join(chosen)}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
