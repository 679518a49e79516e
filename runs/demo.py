"""Vocodes mels of several voices with the released model, draws the results, and prints how good they are."""

import math
import time
from importlib.util import find_spec

import numpy as np

from benchmarking.metrics import log_mel_l1, pesq_wideband, stoi
from common.audio import read_audio, wav_writer
from common.errors import CommandParser, InputError, run_command
from common.files import save_atomically
from common.mel_plot import mel_pair
from common.released import CHECKPOINT, ROOT, SCHEDULE
from extensions.griffin_lim.baseline import griffin_lim
from model.mel import read_mel
from vocoder import Vocoder

VOICES = ROOT / "generated_samples" / "voices"
OUTPUT = ROOT / "generated_samples" / "demo"
COLUMNS = ["PESQ", "STOI", "log-mel L1", "real-time factor"]


def measure(recording, mel, waveform, seconds, mel_transform):
    """The figures of one waveform, in the order of `COLUMNS`.

    Args:
        recording: `[T]`, or None where only its mel is in the repository: figures that need it are NaN then.
        mel: of the recording, `[n_mels, frames]`.
        waveform: `[T]`.
        seconds: what it took.
        mel_transform: the `LogMelSpectrogram`.
    """
    sample_rate = mel_transform.config.sample_rate
    judged = {"pesq": pesq_wideband, "pystoi": stoi}  # package -> metric; they are of requirements-dev.txt
    return [
        *(
            metric(recording, waveform, sample_rate) if recording is not None and find_spec(package) else math.nan
            for package, metric in judged.items()
        ),
        log_mel_l1(mel, mel_transform(waveform)) * mel_transform.config.std,
        seconds / (len(waveform) / sample_rate),
    ]


def row(recording, system, figures):
    """A line of the table."""
    return f"{recording:18}{system:28}" + "".join(f"{'-' if math.isnan(value) else f'{value:.3f}':>18}" for value in figures)


def draw(path, title, recording_mel, result_mel, mel_config):
    """A picture of the mel of a recording above that of the result."""
    figure = mel_pair(recording_mel, result_mel, mel_config, title)
    save_atomically(lambda temporary: figure.savefig(temporary, dpi=100, format="png"), path)


def mean_of_those_there(values):
    """The mean of the values that are not NaN; NaN where there are none."""
    values = [value for value in values if not math.isnan(value)]
    return np.mean(values) if values else math.nan


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def main():
    CommandParser(description=__doc__).parse_args()
    mel_paths = sorted(VOICES.glob("*.npy"))
    if not mel_paths:
        raise InputError(f"{VOICES}: no mels (expected: the .npy files that the repository has there)")
    vocoder = Vocoder.load(CHECKPOINT, SCHEDULE)
    mel_transform, config = vocoder.mel_transform, vocoder.mel_transform.config
    n_steps = len(vocoder.schedule)
    wavegrad = f"WaveGrad, {n_steps} step{'s' * (n_steps != 1)}"
    systems = {wavegrad: vocoder, "Griffin-Lim, 32 iterations": lambda mel: griffin_lim(mel, config)}
    for vocode in systems.values():
        vocode(read_mel(mel_paths[0], config.n_mels))  # warm-up
    rows = {name: [] for name in systems}
    print(f"{'voice':18}{'':28}" + "".join(f"{column:>18}" for column in COLUMNS), flush=True)
    for mel_path in mel_paths:
        mel, recording_path = read_mel(mel_path, config.n_mels), mel_path.with_suffix(".flac")
        recording = read_audio(recording_path, config.sample_rate) if recording_path.exists() else None
        for name, vocode in systems.items():
            waveform, seconds = timed(vocode, mel)
            if name == wavegrad:
                with wav_writer(OUTPUT / f"{mel_path.stem}.wav", config.sample_rate) as write:
                    write(waveform)
                draw(OUTPUT / f"{mel_path.stem}.png", name, mel, mel_transform(waveform), config)
            rows[name].append(measure(recording, mel, waveform, seconds, mel_transform))
            print(row(mel_path.stem, name, rows[name][-1]), flush=True)
    for name in systems:
        print(row("mean", name, [mean_of_those_there(column) for column in zip(*rows[name])]))
    if not (find_spec("pesq") and find_spec("pystoi")):
        print("\nPESQ and STOI need the packages of requirements-dev.txt.")
    print(f"\nListen to {OUTPUT}/*.wav and look at the pictures beside them.")
    return 0


if __name__ == "__main__":
    run_command(main)
