"""Vocodes mel files, or resynthesises audio files: `python inference.py -ch CHECKPOINT -ns SCHEDULE -m FILELIST`."""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from datasets import AUDIO_SUFFIXES, MEL_SUFFIXES, read_audio, read_filelist, read_mel
from model.checkpoint import build_network, read_checkpoint
from model.config import load_config
from model.device import DTYPES
from model.errors import CommandParser, InputError, describe, non_negative_int, positive_int, run_command, seed_int
from model.noise_schedule import NoiseSchedule
from model.sampler import DEFAULT_SAMPLER, STEPS
from vocoder import Vocoder


def features(path, vocoder, mix_to_mono=False):
    """The mel `[n_mels, frames]` of a mel or audio file, as `vocoder` wants it.

    Raises:
        OSError, InputError: the file cannot be used; the message names it.
    """
    path, config = Path(path), vocoder.mel.config
    if path.suffix in MEL_SUFFIXES:
        return read_mel(path, config.n_mels)
    if path.suffix in AUDIO_SUFFIXES:
        audio = read_audio(path, config.sample_rate, mix_to_mono)
        try:
            return vocoder.mel(audio)
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


@contextlib.contextmanager
def wav_writer(path, sample_rate):
    """Writes a 16-bit wav piece by piece, atomically: yields a function that takes `[T]` in [-1, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with soundfile.SoundFile(temporary, "w", sample_rate, 1, "PCM_16", format="WAV") as file:
            yield lambda waveform: file.write(np.round(waveform.numpy() * 32767).astype(np.int16))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def warn(message):
    tqdm.write(f"warning: {message}", file=sys.stderr)


def usable_files(vocoder, inputs, outputs, mix_to_mono, refuse):
    """Yields output path and mel of each file; those that cannot be used are handed to `refuse(error)` instead."""
    for path, output in zip(inputs, outputs):
        try:
            if os.path.abspath(path) == os.path.abspath(output):
                raise InputError(f"{path}: the result would overwrite it (wanted: another --output_dir)")
            mel = features(path, vocoder, mix_to_mono)
        except (InputError, OSError) as error:
            refuse(error)
            continue
        complaint = vocoder.diagnose(mel)
        if complaint:
            warn(f"{path}: {complaint}")
        yield output, mel


def vocode_batch(vocoder, outputs, mels, seed):
    """Vocodes mels to files; returns the seconds that the synthesis took."""
    sample_rate, seconds = vocoder.mel.config.sample_rate, 0.0
    clipped = [0] * len(mels)
    with contextlib.ExitStack() as stack:
        write = [stack.enter_context(wav_writer(output, sample_rate)) for output in outputs]
        start = time.perf_counter()
        for i, waveform in vocoder.stream(mels, seed):
            seconds += time.perf_counter() - start
            write[i](waveform)
            clipped[i] += int((waveform.abs() >= 1).sum())
            start = time.perf_counter()
    for output, n_clipped in zip(outputs, clipped):
        if n_clipped:
            warn(f"{output}: {n_clipped} samples are clipped at full scale")
    return seconds


def vocode_files(vocoder, inputs, outputs, batch_size=1, seed=0, mix_to_mono=False, progress=True):
    """Vocodes files to files, `batch_size` at a time.

    Returns:
        the real-time factor of each batch, and the number of files that could not be used.
    """
    failures = []

    def refuse(error):
        failures.append(error)
        tqdm.write(f"error: {describe(error)}", file=sys.stderr)
        bar.update()

    factors = []
    seconds_per_frame = vocoder.mel.config.hop_length / vocoder.mel.config.sample_rate
    with tqdm(total=len(inputs), unit="file", disable=not progress) as bar:
        files = usable_files(vocoder, inputs, outputs, mix_to_mono, refuse)
        while batch := list(itertools.islice(files, batch_size)):
            batch_outputs, mels = zip(*batch)
            seconds = vocode_batch(vocoder, batch_outputs, mels, seed)
            factors.append(seconds / (sum(mel.shape[1] for mel in mels) * seconds_per_frame))
            bar.update(len(batch))
    return factors, len(failures)


def run_jobs(argv, n_jobs):
    """Runs this command as several processes, each with its share of the files and of the cores; returns an exit status."""
    n_threads = max(len(os.sched_getaffinity(0)) // n_jobs, 1)
    processes = []
    for rank in range(n_jobs):
        variables = {"RANK": rank, "LOCAL_RANK": rank % max(torch.cuda.device_count(), 1), "WORLD_SIZE": n_jobs}
        variables = {key: str(value) for key, value in {**variables, "OMP_NUM_THREADS": n_threads}.items()}
        processes.append(subprocess.Popen([sys.executable, __file__, *argv], env={**os.environ, **variables}))
    try:
        statuses = {process.wait() for process in processes}
    finally:
        for process in processes:
            process.terminate()  # those that have not ended
    return statuses.pop() if len(statuses) == 1 else 1


def main(argv=None):
    parser = CommandParser(description="Vocode mel files, or resynthesise audio files.")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with (it carries its own)")
    parser.add_argument("-ch", "--checkpoint", required=True, help="weights: .safetensors, or a training checkpoint .pt")
    parser.add_argument("-ns", "--noise_schedule", required=True, help="noise schedule: .json, .pt or .npy")
    parser.add_argument("-m", "--mel_filelist", required=True, help="list or folder of .npy or .pt mels, or .wav or .flac recordings")
    parser.add_argument("-v", "--verbose", choices=["yes", "no"], default="yes", help="show progress and speed")
    parser.add_argument("-o", "--output_dir", default="outputs", help="folder for the wav files (default: outputs)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--seed", type=seed_int, default=0, help="seed of the noise")
    parser.add_argument("--batch_size", type=positive_int, default=1, help="files that are vocoded together")
    parser.add_argument(
        "--sampler", help=f"one of {', '.join(STEPS)} (default: what the schedule was made for, or {DEFAULT_SAMPLER})"
    )
    parser.add_argument(
        "--gla_grad", type=non_negative_int, default=0, metavar="N", help="iterations that bring the result closer to its mel (GLA-Grad; default: 0)"
    )
    parser.add_argument("--mix_to_mono", action="store_true", help="average the channels of recordings that have several")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="precision (default: the device's fastest)")
    parser.add_argument("--chunk_frames", type=positive_int, default=400, help="mel frames at once; bounds the memory")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes that share the files and the cores (default: 1)")
    parser.add_argument("--compile", action="store_true", help="torch.compile: a minute or two, then faster; for many files")
    arguments = parser.parse_args(argv)

    config = load_config(arguments.config) if arguments.config else None
    inputs = read_filelist(arguments.mel_filelist, AUDIO_SUFFIXES | MEL_SUFFIXES)
    schedule = NoiseSchedule.load(arguments.noise_schedule)
    checkpoint = read_checkpoint(arguments.checkpoint, config)
    network = build_network(checkpoint, arguments.checkpoint)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # set by torchrun
    device, dtype = pick_device(arguments.device), DTYPES.get(arguments.dtype)
    vocoder = Vocoder(
        network, checkpoint.config.mel, schedule, device, dtype, arguments.chunk_frames, arguments.sampler,
        arguments.gla_grad, checkpoint.mel_statistics, arguments.compile,
    )
    if schedule.warning and rank == 0:
        warn(schedule.warning)
    if arguments.jobs > 1 and world_size == 1:  # what can be wrong with the command has been said by now, once
        return run_jobs(sys.argv[1:] if argv is None else argv, min(arguments.jobs, len(inputs)))

    verbose = arguments.verbose == "yes"
    outputs = output_paths(inputs, arguments.output_dir)[rank::world_size]
    inputs = inputs[rank::world_size]
    factors, n_failures = vocode_files(
        vocoder, inputs, outputs, arguments.batch_size, arguments.seed, arguments.mix_to_mono, verbose and rank == 0
    )
    if verbose and factors:
        spread = f" ± {np.std(factors):.3f}" if len(factors) > 1 else ""
        process = f"process {rank + 1} of {world_size}: " if world_size > 1 else ""
        print(
            f"{process}{len(inputs) - n_failures} files in {arguments.output_dir}; real-time factor {np.mean(factors):.3f}{spread} "
            f"({len(schedule)} steps, {vocoder.device})"
        )
    if n_failures and n_failures == len(inputs):
        return 2
    return 1 if n_failures else 0


def pick_device(name):
    """The device of that name, or a GPU if there is one: that of this process, where torchrun started several.

    Raises:
        InputError: there is no such device.
    """
    try:
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        device = torch.device(name or (gpu if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available ({str(error).splitlines()[0]})") from None
    return device


if __name__ == "__main__":
    run_command(main)
