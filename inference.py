"""Vocodes mel files, or resynthesises audio files: `python inference.py -ch CHECKPOINT -ns SCHEDULE -m FILELIST`."""

import argparse
import contextlib
import itertools
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from common.audio import AS_IT_IS, AUDIO_SUFFIXES, Conversions, is_ours, read_audio, unusual, wav_writer
from common.device import DTYPES, exact_float32, pick_device
from common.errors import CommandParser, InputError, describe, naming, non_negative_int, one_line, positive_int, run_command, seed_int
from common.jobs import device_of_job, end_with_parent, run_jobs, torchrun_place
from common.output_paths import OutputGuard, distinct, entry, output_paths
from datasets import read_filelist
from model.checkpoint import build_network, read_checkpoint
from model.config import load_config
from model.mel.input import MEL_SUFFIXES, read_mel
from model.sampler import DEFAULT_SAMPLER, STREAMABLE
from model.schedule_text import FORMS, find_schedule
from vocoder import Vocoder, WaveformCheck

try:
    import resource
except ImportError:  # Windows
    resource = None

FILES_BESIDE = 24  # that are open beside the results: libraries, standard streams, the input


def names(suffixes):
    return ", ".join(sorted(suffixes))


def read_inputs(filelist, output_dir):
    """The files of a filelist, of a folder without earlier results, or the one file, each of them once.

    Raises:
        OSError, InputError: see `datasets.read_filelist`.
    """
    listed = read_filelist(filelist, AUDIO_SUFFIXES | MEL_SUFFIXES)
    if os.path.isdir(filelist):
        results = Path(os.path.realpath(output_dir))
        listed = [path for path in listed if not (entry(path).is_relative_to(results) and is_ours(path))]
        if not listed:
            raise InputError(f"{filelist}: the folder holds no files but results (wanted: mels or recordings)")
    inputs = distinct(listed)
    if len(inputs) < len(listed):
        warn(f"{filelist}: {len(listed) - len(inputs)} lines name a file again; it is vocoded once")
    return inputs


def features(path, vocoder, conversions=AS_IT_IS):
    """The mel `[n_mels, frames]` of a mel or audio file, by the definition of `vocoder`.

    Raises:
        OSError, InputError: the file cannot be used; the message names it.
    """
    path, config = Path(path), vocoder.mel_transform.config
    if path.suffix.lower() in MEL_SUFFIXES:
        return read_mel(path, config.n_mels)
    if path.suffix.lower() in AUDIO_SUFFIXES:
        audio = read_audio(path, config.sample_rate, conversions)
        for line in unusual(path, audio):
            warn(line)
        with naming(path):
            return vocoder.mel_transform(audio)
    raise InputError(f"{path}: unknown kind of file '{path.suffix}' (wanted: one of {names(MEL_SUFFIXES | AUDIO_SUFFIXES)})")


def warn(message):
    tqdm.write(f"warning: {one_line(message)}", file=sys.stderr)


class Usable(NamedTuple):
    """A file that can be vocoded: the mel `[n_mels, frames]` read from `path`, whose waveform goes to `output`."""

    path: Path
    output: Path
    mel: torch.Tensor


def usable_files(vocoder, inputs, outputs, guard, conversions, refuse):
    """Yields a `Usable` for each file; those that cannot be used are handed to `refuse(error)` instead."""
    for path, output in zip(inputs, outputs):
        try:
            guard.check(path, output)
            mel = features(path, vocoder, conversions)
        except (InputError, OSError) as error:
            refuse(error)
            continue
        complaint = vocoder.diagnose(mel)
        if complaint:
            warn(f"{path}: {complaint}")
        yield Usable(path, output, mel)


def waveform_file(file, definition):
    """A coroutine that writes the waveform of a `Usable`: send it None to begin, pieces `[T]`, and None at the end.

    There is a file only if the waveform can be speech.

    Args:
        definition: the model's `LogMelSpectrogram`.

    Raises:
        OSError, InputError: when something is sent to it; the error names the file.
    """
    check = WaveformCheck(file.path, definition.misfit(file.mel))
    with wav_writer(file.output, definition.config.sample_rate) as write:
        while (waveform := (yield)) is not None:
            check.add(waveform)
            write(waveform)
        check.finish()
    if check.n_clipped:
        warn(f"{file.output}: {check.n_clipped} samples are clipped at full scale")


def vocode_batch(vocoder, batch, seed, refuse):
    """Vocodes `Usable` files together; what goes wrong with one is handed to `refuse(error)`, and leaves no file.

    Returns:
        the seconds that the synthesis took.
    """
    files, seconds = {}, 0.0

    def send(i, waveform):
        try:
            files[i].send(waveform)
        except StopIteration:
            del files[i]
        except (InputError, OSError) as error:
            del files[i]
            refuse(error)

    try:
        for i, file in enumerate(batch):
            files[i] = waveform_file(file, vocoder.mel_transform)
            send(i, None)
        start = time.perf_counter()
        for i, waveform in vocoder.stream([file.mel for file in batch], seed):
            seconds += time.perf_counter() - start
            if i in files:
                send(i, waveform)
            if not files:
                break
            start = time.perf_counter()
        for i in list(files):
            send(i, None)
    finally:
        for file in files.values():
            file.close()
    return seconds


def most_open_files():
    """How many results can be written at once; where the system says nothing, any number."""
    if resource is None:
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max((sys.maxsize if soft == resource.RLIM_INFINITY else soft) - FILES_BESIDE, 1)


def vocode_files(vocoder, inputs, outputs, guard=None, batch_size=1, seed=0, conversions=AS_IT_IS, progress=True):
    """Vocodes files to files, `batch_size` at a time.

    Args:
        guard: an `OutputGuard`; None is one of these inputs alone.

    Returns:
        the real-time factor of each batch, and the number of files that could not be used.
    """
    failures, factors = [], []

    def refuse(error):
        failures.append(error)
        tqdm.write(f"error: {describe(error)}", file=sys.stderr)
        bar.update()

    seconds_per_frame = vocoder.mel_transform.config.hop_length / vocoder.mel_transform.config.sample_rate
    with tqdm(total=len(inputs), unit="file", disable=not progress) as bar:
        files = usable_files(vocoder, inputs, outputs, guard or OutputGuard(inputs, outputs), conversions, refuse)
        batch_size = min(batch_size, most_open_files())
        while batch := list(itertools.islice(files, batch_size)):
            n_before = len(failures)
            seconds = vocode_batch(vocoder, batch, seed, refuse)
            n_done = len(batch) - (len(failures) - n_before)
            if n_done:
                factors.append(seconds / (sum(file.mel.shape[1] for file in batch) * seconds_per_frame))
            bar.update(n_done)
    return factors, len(failures)


def parse_arguments(argv):
    """The options of a command line; None is that of this process."""
    parser = CommandParser(description="Vocode mel files, or resynthesise audio files.")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with (it carries its own)")
    parser.add_argument("-ch", "--checkpoint", required=True, help="weights: .safetensors, or a training checkpoint .pt")
    parser.add_argument("-ns", "--noise_schedule", required=True, help=f"noise schedule: {FORMS}")
    changes = parser.add_mutually_exclusive_group()
    changes.add_argument("--steps", type=positive_int, metavar="N", help="follow the curve of the schedule in N steps; not with --repeat")
    changes.add_argument("--repeat", type=positive_int, metavar="K", help="take each beta of the schedule K times; not with --steps")
    parser.add_argument(
        "-m",
        "--mel_filelist",
        required=True,
        help=f"list or folder of mels ({names(MEL_SUFFIXES)}) or recordings ({names(AUDIO_SUFFIXES)}), or one of these",
    )
    parser.add_argument("-v", "--verbose", choices=["yes", "no"], default="yes", help="show progress and speed")
    parser.add_argument("-o", "--output_dir", default="outputs", help="folder for the wav files (default: outputs)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--seed", type=seed_int, default=0, help="seed of the noise")
    parser.add_argument("--batch_size", type=positive_int, default=1, help="files that are vocoded together")
    parser.add_argument("--sampler", help=f"one of {', '.join(STREAMABLE)} (default: what the schedule was made for, or {DEFAULT_SAMPLER})")
    parser.add_argument(
        "--gla_grad",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="iterations that bring the result closer to its mel (GLA-Grad; default: 0)",
    )
    parser.add_argument("--mix_to_mono", action="store_true", help="average the channels of recordings that have several")
    parser.add_argument("--resample", action="store_true", help="convert recordings of another sample rate (band-limited)")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="precision (default: the device's fastest)")
    parser.add_argument("--chunk_frames", type=positive_int, default=400, help="mel frames at once; bounds the memory")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes that share the files and the cores (default: 1)")
    parser.add_argument("--job", type=non_negative_int, help=argparse.SUPPRESS)  # which of the jobs this process is
    parser.add_argument("--compile", action="store_true", help="torch.compile: a minute or two, then faster; for many files")
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse_arguments(argv)
    config = load_config(arguments.config) if arguments.config else None
    inputs = read_inputs(arguments.mel_filelist, arguments.output_dir)
    schedule = find_schedule(arguments.noise_schedule, arguments.steps, arguments.repeat)
    checkpoint = read_checkpoint(arguments.checkpoint, config)
    network = build_network(checkpoint, arguments.checkpoint)
    exact_float32()
    n_jobs = min(arguments.jobs, len(inputs))
    rank, _, world_size = torchrun_place()
    if arguments.job is not None:
        end_with_parent()
        rank, world_size = arguments.job, n_jobs
        arguments.device = device_of_job(arguments.device, arguments.job)
    vocoder = Vocoder(
        network,
        checkpoint.config.mel,
        schedule,
        pick_device(arguments.device),
        DTYPES.get(arguments.dtype),
        arguments.chunk_frames,
        arguments.sampler,
        arguments.gla_grad,
        checkpoint.mel_statistics,
        arguments.compile,
        checkpoint.starts,
    )
    for line in vocoder.warnings if rank == 0 and arguments.job is None else ():
        warn(line)
    if n_jobs > 1 and world_size == 1:  # only now: an error in the command is printed once
        del vocoder, network, checkpoint
        return run_jobs([sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)], n_jobs)

    verbose = arguments.verbose == "yes"
    outputs = output_paths(inputs, arguments.output_dir)
    guard = OutputGuard(inputs, outputs)
    inputs, outputs = inputs[rank::world_size], outputs[rank::world_size]
    conversions = Conversions(arguments.mix_to_mono, arguments.resample)
    factors, n_failures = vocode_files(
        vocoder, inputs, outputs, guard, arguments.batch_size, arguments.seed, conversions, verbose and rank == 0
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


if __name__ == "__main__":
    run_command(main)
