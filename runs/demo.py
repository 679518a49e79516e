"""Vocodes mels of several voices with the released model, draws the results, and prints how good they are."""

import math
import time
from importlib.util import find_spec

import numpy as np

from benchmarking.metrics import log_mel_l1, pesq_wideband, stoi
from benchmarking.tables import number
from common.audio import read_audio, wav_writer
from common.errors import CommandParser, InputError, run_command
from common.mel_plot import mel_pair, save_figure
from common.released import CHECKPOINT, ROOT, SCHEDULE
from extensions.griffin_lim.baseline import griffin_lim
from model.mel import read_mel
from vocoder import Vocoder

VOICES = ROOT / "generated_samples" / "voices"
OUTPUT = ROOT / "generated_samples" / "demo"
COLUMNS = ["PESQ", "STOI", "log-mel L1", "real-time factor"]


def measure(recording, mel, waveform, mel_transform):
    """PESQ and STOI of a waveform `[T]`, NaN without the recording or their package, and its log-mel L1 in natural logarithms.

    Args:
        recording: `[T]`, or None where only its mel is in the repository.
        mel: of the recording, `[n_mels, frames]`.
    """
    judged = {"pesq": pesq_wideband, "pystoi": stoi}  # package -> metric; they are of requirements-dev.txt
    sample_rate = mel_transform.config.sample_rate
    is_judged = {package: recording is not None and find_spec(package) for package in judged}
    values = [judged[package](recording, waveform, sample_rate) if is_judged[package] else math.nan for package in judged]
    return [*values, log_mel_l1(mel, mel_transform(waveform)) * mel_transform.config.std]


def mean_of_those_there(values):
    """The mean of the values that are not NaN; NaN where there are none."""
    values = [value for value in values if not math.isnan(value)]
    return np.mean(values) if values else math.nan


def row(recording, system, cells):
    """A line of the table."""
    return f"{recording:18}{system:28}" + "".join(f"{cell:>18}" for cell in cells)


def main():
    CommandParser(description=__doc__).parse_args()
    mel_paths = sorted(VOICES.glob("*.npy"))
    if not mel_paths:
        raise InputError(f"{VOICES}: no mels (expected: the .npy files that the repository has there)")
    vocoder = Vocoder.load(CHECKPOINT, SCHEDULE)
    mel_transform, config = vocoder.mel_transform, vocoder.mel_transform.config
    wavegrad = f"WaveGrad, {len(vocoder.schedule)} step"
    systems = {wavegrad: vocoder, "Griffin-Lim, 32 iterations": lambda mel: griffin_lim(mel, config)}
    for vocode in systems.values():
        vocode(read_mel(mel_paths[0], config.n_mels))  # warm-up
    rows = {name: [] for name in systems}
    print(row("voice", "", COLUMNS), flush=True)
    for mel_path in mel_paths:
        mel, recording_path = read_mel(mel_path, config.n_mels), mel_path.with_suffix(".flac")
        recording = read_audio(recording_path, config.sample_rate) if recording_path.exists() else None
        for name, vocode in systems.items():
            start = time.perf_counter()
            waveform = vocode(mel)
            factor = (time.perf_counter() - start) / (len(waveform) / config.sample_rate)
            if name == wavegrad:
                with wav_writer(OUTPUT / f"{mel_path.stem}.wav", config.sample_rate) as write:
                    write(waveform)
                save_figure(mel_pair(mel, mel_transform(waveform), config, name), OUTPUT / f"{mel_path.stem}.png")
            rows[name].append([*measure(recording, mel, waveform, mel_transform), factor])
            print(row(mel_path.stem, name, map(number, rows[name][-1])), flush=True)
    for name in systems:
        print(row("mean", name, (number(mean_of_those_there(column)) for column in zip(*rows[name]))))
    if not (find_spec("pesq") and find_spec("pystoi")):
        print("\nPESQ and STOI need the packages of requirements-dev.txt.")
    print(f"\nListen to {OUTPUT}/*.wav and look at the pictures beside them.")
    return 0


if __name__ == "__main__":
    run_command(main)
