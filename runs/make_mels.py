"""Writes the mels of recordings, as `inference.py` takes them, by the definition of a checkpoint or a configuration."""

import io
import os
import sys
from pathlib import Path

import numpy as np

from common.audio import AUDIO_SUFFIXES, Conversions, read_audio, unusual
from common.errors import CommandParser, InputError, describe, naming, one_line, run_command
from common.files import save_atomically
from common.output_paths import distinct, output_paths
from datasets import read_filelist
from extensions.registry import read_checkpoint
from model.config import load_config
from model.mel import LogMelSpectrogram


def save_mel(mel, path):
    """Writes an array as `.npy`, atomically; another file that is there already is refused with an `InputError`."""
    file = io.BytesIO()
    np.save(file, mel, allow_pickle=False)
    if os.path.lexists(path):
        if path.is_file() and path.read_bytes() == file.getvalue():
            return
        raise InputError(f"{path}: is there already, and holds something else (expected: another --output_dir)")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda temporary: temporary.write_bytes(file.getvalue()), path)


def main(argv=None):
    parser = CommandParser(prog="sh runs/make_mels.sh", description=__doc__)
    definition = parser.add_mutually_exclusive_group(required=True)
    definition.add_argument("-ch", "--checkpoint", help="weights, which carry the definition")
    definition.add_argument("-c", "--config", help="configuration")
    parser.add_argument("-m", "--recordings", required=True, help="list or folder of recordings, or one recording")
    parser.add_argument("-o", "--output_dir", required=True, help="folder for the .npy files, [n_mels, frames] in float32")
    parser.add_argument("--mix_to_mono", action="store_true", help="average the channels of recordings that have several")
    parser.add_argument("--resample", action="store_true", help="convert recordings of another sample rate (band-limited)")
    arguments = parser.parse_args(argv)
    config = (load_config(arguments.config) if arguments.config else read_checkpoint(arguments.checkpoint).config).mel
    mel_transform, conversions = LogMelSpectrogram(config), Conversions(arguments.mix_to_mono, arguments.resample)
    recordings = distinct(read_filelist(arguments.recordings, AUDIO_SUFFIXES))
    n_failures = 0
    for path, output in zip(recordings, output_paths(recordings, arguments.output_dir, ".npy")):
        try:
            audio = read_audio(path, config.sample_rate, conversions)
            for line in unusual(path, audio):
                print(f"warning: {one_line(line)}", file=sys.stderr)
            with naming(path):
                save_mel(mel_transform(audio).numpy(), Path(output))
        except (InputError, OSError) as error:
            n_failures += 1
            print(f"error: {describe(error)}", file=sys.stderr)
    n_written = len(recordings) - n_failures
    if n_written == 0:
        return 2
    print(f"{n_written} mels in {arguments.output_dir}: [{config.n_mels}, frames] of {config.sample_rate:,} Hz, hop {config.hop_length}")
    return 1 if n_failures else 0


if __name__ == "__main__":
    run_command(main)
