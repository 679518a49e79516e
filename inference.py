"""Vocodes mel files, or resynthesises audio files: `python inference.py -ch CHECKPOINT -ns SCHEDULE -m FILELIST`."""

import contextlib
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from common.audio import AUDIO_SUFFIXES, NO_CONVERSIONS, Conversions, is_own_wav, read_audio, unusual, wav_writer
from common.device import DTYPES, exact_float32
from common.errors import CommandParser, InputError, describe, naming, non_negative_int, one_line, positive_int, run_command, seed_int
from common.jobs import end_with_parent, run_jobs, torchrun_place
from common.output_paths import check_output, distinct, entry, identities, output_paths
from datasets import read_filelist
from model.config import load_config
from model.mel import MEL_SUFFIXES, read_mel
from model.noise_schedule import FORMS
from model.samplers import DEFAULT_SAMPLER, SAMPLERS
from vocoder import Vocoder, WaveformCheck


def names(suffixes):
    return ", ".join(sorted(suffixes))


def read_inputs(filelist, output_dir) -> list:
    """The files of a filelist, of a folder without earlier results, or the one file, each of them once.

    Raises:
        OSError, InputError: see `datasets.read_filelist`.
    """
    listed = read_filelist(filelist, AUDIO_SUFFIXES | MEL_SUFFIXES)
    if os.path.isdir(filelist):
        results = Path(os.path.realpath(output_dir))
        listed = [path for path in listed if not (entry(path).is_relative_to(results) and is_own_wav(path))]
        if not listed:
            raise InputError(f"{filelist}: the folder holds no files but results (expected: mels or recordings)")
    inputs = distinct(listed)
    if len(inputs) < len(listed):
        warn(f"{filelist}: {len(listed) - len(inputs)} lines name a file again; it is vocoded once")
    return inputs


def features(path, vocoder: Vocoder, conversions: Conversions = NO_CONVERSIONS) -> Tensor:
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
    raise InputError(f"{path}: unknown kind of file '{path.suffix}' (expected: one of {names(MEL_SUFFIXES | AUDIO_SUFFIXES)})")


def warn(message):
    tqdm.write(f"warning: {one_line(message)}", file=sys.stderr)


class WaveformFile:
    """The waveform of one input, written piece by piece. There is a file only after `close`, and only if it can be speech.

    Args:
        path: the mel or recording.
        output: the wav file.
        vocoder: its mel definition is that of the mel.
        conversions: what may be done to a recording that is not as expected.
        sources: from `common.output_paths.identities`, of all inputs.

    Attributes:
        mel: `[n_mels, frames]`.
        error: what went wrong with the file, or None; after an error, `write` and `close` do nothing.
        opened: a context that leaves no file if it ends before `close`.

    Raises:
        OSError, InputError: the input cannot be used, or the output not be written; the message names it.
    """

    def __init__(self, path, output, vocoder: Vocoder, conversions: Conversions, sources: dict):
        check_output(path, output, sources)
        self.output, self.mel, self.error = output, features(path, vocoder, conversions), None
        if complaint := vocoder.diagnose(self.mel):
            warn(f"{path}: {complaint}")
        self.check = WaveformCheck(path, vocoder.mel_transform.misfit(self.mel))
        self.opened = contextlib.ExitStack()
        self._append = self.opened.enter_context(wav_writer(output, vocoder.mel_transform.config.sample_rate))

    def write(self, waveform: Tensor):
        """Adds a piece `[T]`."""
        if self.error is None:
            with self._attempt():
                self.check.add(waveform)
                self._append(waveform)

    def close(self):
        if self.error is None:
            with self._attempt():
                self.check.finish()
                self.opened.close()
                if self.check.n_clipped:
                    warn(f"{self.output}: {self.check.n_clipped} samples are clipped at full scale")

    @contextlib.contextmanager
    def _attempt(self):
        try:
            try:
                yield
            except (InputError, OSError):
                with self.opened:  # leaves no file; an error of the disk names it
                    raise
        except (InputError, OSError) as error:
            self.error = error


def vocode_files(vocoder: Vocoder, inputs, outputs, sources=None, batch_size=1, seed=0, conversions=NO_CONVERSIONS, progress=True):
    """Vocodes files to files, `batch_size` at a time. What goes wrong with one is said, and leaves no file.

    Args:
        sources: from `identities`, of all inputs of all processes; None is of these alone.

    Returns:
        the real-time factor of each batch, and the number of files that could not be used.
    """
    factors, n_failures, pairs = [], 0, list(zip(inputs, outputs))
    sources = identities(inputs) if sources is None else sources
    mel_config = vocoder.mel_transform.config
    with tqdm(total=len(inputs), unit="file", disable=not progress) as bar:
        for k in range(0, len(pairs), batch_size):
            batch, files, errors = pairs[k : k + batch_size], [], []
            with contextlib.ExitStack() as stack:
                for path, output in batch:
                    try:
                        files.append(WaveformFile(path, output, vocoder, conversions, sources))
                        stack.push(files[-1].opened)
                    except (InputError, OSError) as error:
                        errors.append(error)
                start = time.perf_counter()
                for i, waveform in vocoder.stream([file.mel for file in files], seed):
                    files[i].write(waveform)
                    if all(file.error for file in files):
                        break
                for file in files:
                    file.close()
                seconds = time.perf_counter() - start
            errors += [file.error for file in files if file.error]
            for error in errors:
                tqdm.write(f"error: {describe(error)}", file=sys.stderr)
            n_failures += len(errors)
            if n_frames := sum(file.mel.shape[1] for file in files if file.error is None):
                factors.append(seconds / (n_frames * mel_config.hop_length / mel_config.sample_rate))
            bar.update(len(batch))
    return factors, n_failures


def parse_arguments(argv):
    """The options of a command line; None is that of this process."""
    parser = CommandParser(description="Vocode mel files, or resynthesise audio files.")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with (it carries its own)")
    parser.add_argument("-ch", "--checkpoint", required=True, help="weights: .safetensors, or a training checkpoint .pt")
    parser.add_argument("-ns", "--noise_schedule", required=True, help=f"noise schedule: {FORMS}")
    changes = parser.add_mutually_exclusive_group()
    changes.add_argument("--steps", type=positive_int, metavar="N", help="follow the curve of the schedule in N steps; not with --repeat")
    changes.add_argument("--repeat", type=positive_int, metavar="K", help="take each beta of the schedule K times; not with --steps")
    inputs = f"list or folder of mels ({names(MEL_SUFFIXES)}) or recordings ({names(AUDIO_SUFFIXES)}), or one of these"
    parser.add_argument("-m", "--mel_filelist", required=True, help=inputs)
    parser.add_argument("-v", "--verbose", choices=["yes", "no"], default="yes", help="show progress and speed")
    parser.add_argument("-o", "--output_dir", default="outputs", help="folder for the wav files (default: outputs)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--seed", type=seed_int, default=0, help="seed of the noise")
    parser.add_argument("--batch_size", type=positive_int, default=1, help="files that are vocoded together")
    parser.add_argument(
        "--sampler",
        help=f"one of {', '.join(SAMPLERS)}, ddim:ETA, dpm-solver:ETA (default: what the schedule was made for, or {DEFAULT_SAMPLER})",
    )
    correction = "iterations that bring the result closer to its mel (GLA-Grad; default: 0)"
    parser.add_argument("--gla_grad", type=non_negative_int, default=0, metavar="N", help=correction)
    parser.add_argument("--mix_to_mono", action="store_true", help="average the channels of recordings that have several")
    parser.add_argument("--resample", action="store_true", help="convert recordings of another sample rate (band-limited)")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="precision (default: the device's fastest)")
    parser.add_argument("--chunk_frames", type=positive_int, default=400, help="mel frames at once; bounds the memory")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes that share the files and the cores (default: 1)")
    parser.add_argument("--compile", action="store_true", help="torch.compile: a minute or two, then faster; for many files")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    arguments = parse_arguments(argv)
    config = load_config(arguments.config) if arguments.config else None
    inputs = read_inputs(arguments.mel_filelist, arguments.output_dir)
    exact_float32()
    end_with_parent()
    rank, _, world_size = torchrun_place()
    options = {name: getattr(arguments, name) for name in ("steps", "repeat", "device", "chunk_frames", "sampler", "gla_grad", "compile")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below, once
        vocoder = Vocoder.load(arguments.checkpoint, arguments.noise_schedule, config=config, dtype=DTYPES.get(arguments.dtype), **options)
    n_jobs = min(arguments.jobs, len(inputs))
    if n_jobs > 1 and world_size == 1:  # only now: an error in the command is printed once
        del vocoder
        return run_jobs([sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)], n_jobs)
    for line in vocoder.warnings if rank == 0 else ():
        warn(line)

    verbose = arguments.verbose == "yes"
    outputs = output_paths(inputs, arguments.output_dir)
    sources = identities(inputs)
    inputs, outputs = inputs[rank::world_size], outputs[rank::world_size]
    conversions = Conversions(arguments.mix_to_mono, arguments.resample)
    factors, n_failures = vocode_files(
        vocoder, inputs, outputs, sources, arguments.batch_size, arguments.seed, conversions, verbose and rank == 0
    )
    if verbose and factors:
        spread = f" ± {np.std(factors):.3f}" if len(factors) > 1 else ""
        process = f"process {rank + 1} of {world_size}: " if world_size > 1 else ""
        print(
            f"{process}{len(inputs) - n_failures} files in {arguments.output_dir}; real-time factor {np.mean(factors):.3f}{spread} "
            f"({len(vocoder.schedule)} steps, {vocoder.device})"
        )
    if n_failures and n_failures == len(inputs):
        return 2
    return 1 if n_failures else 0


def command():
    """Runs the command and exits."""
    run_command(main)


if __name__ == "__main__":
    command()
