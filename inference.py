"""Vocodes mel files, or resynthesises audio files: `python inference.py -ch CHECKPOINT -ns SCHEDULE -m FILELIST`."""

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from datasets import AUDIO_SUFFIXES, MEL_SUFFIXES, read_audio, read_filelist, read_mel
from model.checkpoint import build_network, read_checkpoint, save_atomically
from model.config import load_config
from model.errors import InputError, describe, run_command
from model.mel import LogMelSpectrogram
from model.mel_diagnosis import diagnose
from model.noise_schedule import NoiseSchedule
from model.sampler import ancestral_sample, gaussian_noises


class Vocoder:
    """A network with what it takes to use it: mel definition, noise schedule, device.

    Args:
        network: a `WaveGrad`.
        mel_config: the `MelConfig` it was trained with.
        schedule: a `NoiseSchedule`.
        mel_statistics: `MelStatistics` of its training, if the checkpoint has them.
    """

    def __init__(self, network, mel_config, schedule, device="cpu", mel_statistics=None):
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.mel = LogMelSpectrogram(mel_config)
        self.schedule = schedule
        self.mel_statistics = mel_statistics

    def synthesize(self, mels, seed=0):
        """Vocodes a batch of mels of one length. Each gets the waveform that it would get alone.

        Args:
            mels: `[B, n_mels, frames]`.
            seed: of the noise, which is the same for each of the batch.

        Returns:
            `[B, frames * hop_length]`, within [-1, 1], on the CPU.
        """
        batch, _, frames = mels.shape
        shape = (1, frames * self.network.hop_length)
        noises = (
            noise.expand(batch, -1).to(self.device)
            for noise in gaussian_noises(shape, torch.Generator().manual_seed(seed))
        )
        return ancestral_sample(self.network, mels.to(self.device), self.schedule, noises=noises).cpu()

    def features(self, path):
        """The mel `[n_mels, frames]` of a mel or audio file.

        Raises:
            OSError, InputError: the file cannot be used; the message names it.
        """
        path, config = Path(path), self.mel.config
        if path.suffix in MEL_SUFFIXES:
            return read_mel(path, config.n_mels)
        if path.suffix in AUDIO_SUFFIXES:
            audio = read_audio(path, config.sample_rate)
            try:
                return self.mel(audio)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
        wanted = ", ".join(sorted(MEL_SUFFIXES | AUDIO_SUFFIXES))
        raise InputError(f"{path}: unknown kind of file '{path.suffix}' (wanted: one of {wanted})")


def output_paths(inputs, output_dir):
    """Where each input's waveform goes: its name with `.wav`.

    Inputs that would share a file keep the folders below their common parent, and if that does not help their suffix.
    """
    absolute = [Path(os.path.abspath(path)) for path in inputs]
    names = [Path(path.stem) for path in absolute]
    if len(set(names)) < len(set(absolute)):
        parent = os.path.commonpath([path.parent for path in absolute])
        names = [Path(os.path.relpath(path, parent)).with_suffix("") for path in absolute]
        twice = {name for name in names if len({path for path, n in zip(absolute, names) if n == name}) > 1}
        names = [name.with_name(path.name) if name in twice else name for path, name in zip(absolute, names)]
    return [Path(output_dir) / name.with_name(name.name + ".wav") for name in names]


def write_wav(path, waveform, sample_rate):
    """Writes `[T]` in [-1, 1] as 16-bit wav, atomically."""
    pcm = np.round(waveform.numpy() * 32767).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(lambda temporary: soundfile.write(temporary, pcm, sample_rate, "PCM_16", format="WAV"), path)


def warn(message):
    tqdm.write(f"warning: {message}", file=sys.stderr)


def batches_of_one_length(vocoder, inputs, outputs, batch_size, refuse):
    """Yields lists of (output path, mel): neighbours of one length together, at most `batch_size`.

    Files that cannot be used are handed to `refuse(path, error)` instead.
    """

    def usable():
        for path, output in zip(inputs, outputs):
            try:
                if os.path.abspath(path) == os.path.abspath(output):
                    raise InputError(f"{path}: the result would overwrite it (wanted: another --output_dir)")
                mel = vocoder.features(path)
            except (InputError, OSError) as error:
                refuse(path, error)
                continue
            complaint = diagnose(mel, vocoder.mel, vocoder.mel_statistics)
            if complaint:
                warn(f"{path}: {complaint}")
            yield output, mel

    for _, group in itertools.groupby(usable(), key=lambda item: item[1].shape[1]):
        while batch := list(itertools.islice(group, batch_size)):
            yield batch


def vocode_files(vocoder, inputs, outputs, batch_size=1, seed=0, progress=True):
    """Vocodes files to files.

    Returns:
        the real-time factor of each batch, and the number of files that could not be used.
    """
    failures = []

    def refuse(path, error):
        failures.append(path)
        tqdm.write(f"error: {describe(error)}", file=sys.stderr)
        bar.update()

    sample_rate, factors = vocoder.mel.config.sample_rate, []
    with tqdm(total=len(inputs), unit="file", disable=not progress) as bar:
        for batch in batches_of_one_length(vocoder, inputs, outputs, batch_size, refuse):
            start = time.perf_counter()
            waveforms = vocoder.synthesize(torch.stack([mel for _, mel in batch]), seed)
            seconds = time.perf_counter() - start
            factors.append(seconds / (waveforms.numel() / sample_rate))
            for (output, _), waveform in zip(batch, waveforms):
                clipped = int((waveform.abs() >= 1).sum())
                if clipped:
                    warn(f"{output}: {clipped} of {len(waveform)} samples are clipped at full scale")
                write_wav(output, waveform, sample_rate)
                bar.update()
    return factors, len(failures)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Vocode mel files, or resynthesise audio files.")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with (it carries its own)")
    parser.add_argument("-ch", "--checkpoint", required=True, help="weights: .safetensors, or a training checkpoint .pt")
    parser.add_argument("-ns", "--noise_schedule", required=True, help="noise schedule: .json, .pt or .npy")
    parser.add_argument("-m", "--mel_filelist", required=True, help="list or folder of .npy or .pt mels, or .wav or .flac recordings")
    parser.add_argument("-v", "--verbose", choices=["yes", "no"], default="yes", help="show progress and speed")
    parser.add_argument("-o", "--output_dir", default="outputs", help="folder for the wav files (default: outputs)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--batch_size", type=int, default=1, help="neighbouring files of one length are vocoded together")
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        raise InputError(f"--batch_size is {arguments.batch_size} (wanted: 1 or more)")

    config = load_config(arguments.config) if arguments.config else None
    inputs = read_filelist(arguments.mel_filelist, AUDIO_SUFFIXES | MEL_SUFFIXES)
    schedule = NoiseSchedule.load(arguments.noise_schedule)
    checkpoint = read_checkpoint(arguments.checkpoint, config)
    network, device = build_network(checkpoint, arguments.checkpoint), pick_device(arguments.device)
    vocoder = Vocoder(network, checkpoint.config.mel, schedule, device, checkpoint.mel_statistics)
    if schedule.warning:
        warn(schedule.warning)

    verbose = arguments.verbose == "yes"
    outputs = output_paths(inputs, arguments.output_dir)
    factors, n_failures = vocode_files(vocoder, inputs, outputs, arguments.batch_size, arguments.seed, verbose)
    if verbose and factors:
        spread = f" ± {np.std(factors):.3f}" if len(factors) > 1 else ""
        print(
            f"{len(inputs) - n_failures} files in {arguments.output_dir}; real-time factor {np.mean(factors):.3f}{spread} "
            f"({len(schedule)} steps, {vocoder.device})"
        )
    if n_failures == len(inputs):
        return 2
    return 1 if n_failures else 0


def pick_device(name):
    """The device of that name, or a GPU if there is one.

    Raises:
        InputError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available ({str(error).splitlines()[0]})") from None
    return device


if __name__ == "__main__":
    run_command(main)
