"""`benchmark.py rtf`: how many seconds of computing a second of audio takes, for variants of the network side by side.

With --cases networks are compared, each with its own precision and number of steps, and with --streaming how soon they speak.

Variants and cases take turns on the same mels, each timing beside those of the others. GFLOP/s count the useful operations: those of
the network as it is, on the samples that are asked for. The peak is that of a matrix product in the same precision.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarking.tools.cases import run_cases
from benchmarking.tools.excerpts import load_excerpts, say_which_are_shorter
from benchmarking.tools.live import run_streaming
from benchmarking.tools.tables import check_output, markdown_table, number, save_json
from benchmarking.tools.timing import Timed, any_schedule, machine, matmul_peak, measure, seconds_per_frame
from benchmarking.tools.variants import (
    NAMES,
    ONNX,
    PLAIN,
    dtype_of,
    make_variants,
    network_of_checkpoint,
    network_of_config,
    operations_per_sample,
)
from common.device import DTYPES, fastest_dtype, pick_device, synchronized_time
from common.errors import InputError, positive_float, positive_int
from common.files import save_text
from model.mel.transform import LogMelSpectrogram
from model.sampler import DEFAULT_SAMPLER, SAMPLERS

ROOT = Path(__file__).parent.parent


def start_to_finish(checkpoint, mel):
    """Seconds that `inference.py` takes from its start to its end for a mel `[n_mels, frames]` in six steps."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        np.save(folder / "second.npy", mel.numpy())
        (folder / "list.txt").write_text("second.npy\n")
        command = ["inference.py", "-ch", checkpoint, "-ns", ROOT / "schedules/wg-6.json", "-v", "no"]
        command += ["-m", folder / "list.txt", "-o", folder]
        start = synchronized_time(torch.device("cpu"))
        if status := subprocess.run([sys.executable, *map(str, command)], cwd=ROOT).returncode:
            raise InputError(f"{checkpoint}: inference.py ended with status {status}")
        return synchronized_time(torch.device("cpu")) - start


def batches_of(excerpts, batch_size):
    """Lists of `batch_size` mels of consecutive excerpts; what is left over makes no batch, unless there would be none."""
    mels = [excerpt.mel for excerpt in excerpts]
    n_batches = max(1, len(mels) // batch_size)
    return [[mels[(n * batch_size + i) % len(mels)] for i in range(batch_size)] for n in range(n_batches)]


def of_length(excerpts, n_frames):
    """One batch of one mel of `n_frames` frames: all excerpts one after the other, again and again."""
    mel = torch.cat([excerpt.mel for excerpt in excerpts], dim=1)
    return [[mel.repeat(1, -(-n_frames // mel.shape[1]))[:, :n_frames]]]


def add_arguments(parser):
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("-ch", "--checkpoint", help="network to time")
    network.add_argument("-c", "--config", help="configuration of a network to time with random weights, as fast as trained ones")
    network.add_argument(
        "--cases",
        nargs="+",
        metavar="NETWORK:VARIANT:STEPS[+N]",
        help="several networks (configurations or checkpoints), each in one variant and with a number of steps or a noise schedule, +N: N "
        "iterations of GLA-Grad after them; the first is the reference; --variants, --steps and --onnx do not count",
    )
    parser.add_argument("--filelist", required=True, help="recordings whose mels are synthesised")
    parser.add_argument(
        "--variants", nargs="+", choices=NAMES, help=f"default: {PLAIN}, the textbook network in float32, and the device's precisions"
    )
    parser.add_argument("--onnx", help="the same network as written by model.export: timed in onnxruntime too")
    parser.add_argument("--steps", type=positive_int, nargs="+", default=[6], help="numbers of denoising steps (default: 6)")
    parser.add_argument("--batch_sizes", type=positive_int, nargs="+", default=[1], help="(default: 1)")
    parser.add_argument("--lengths", type=positive_float, nargs="+", help="seconds: mels of these lengths, in place of the recordings'")
    parser.add_argument("--sampler", default=DEFAULT_SAMPLER, help=f"one of {', '.join(SAMPLERS)} (default: %(default)s)")
    parser.add_argument("--chunk_frames", type=positive_int, default=400, help="mel frames at once (default: %(default)s)")
    parser.add_argument("--recordings", type=positive_int, help="how many, spread over the filelist (default: all)")
    parser.add_argument("--seconds", type=positive_float, help="of each recording (default: all)")
    parser.add_argument("--repeats", type=positive_int, default=3, help="how often to time every batch (default: %(default)s)")
    parser.add_argument(
        "--streaming",
        type=positive_int,
        nargs="+",
        metavar="FRAMES",
        help="with --cases: let frames arrive at a microphone's pace, so many in a piece, and say when there is audio",
    )
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: one a core)")
    parser.add_argument("--start_up", action="store_true", help="time inference.py from start to finish too")
    parser.add_argument("-o", "--output", type=Path, help="write the table as .md and .json with this path's stem too")


HEADINGS = [
    *("variant", "batch", "steps", "seconds of audio", "real-time factor", "standard deviation", "timings"),
    *("times as fast as the first", "GFLOP/s", "of the peak", "peak memory (MiB)"),
]


def _summary(timings, reference, flops_per_second, peak):
    """The figures of a variant's `Timings`.

    Args:
        reference: the real-time factors of the first variant.
        flops_per_second: floating-point operations for a second of audio.
        peak: operations per second of a matrix product.
    """
    flops = flops_per_second / statistics.median(timings.factors)
    return {
        "real_time_factor": float(np.mean(timings.factors)),
        "standard_deviation": float(np.std(timings.factors)),
        "n_timings": len(timings.factors),
        "speed_ratio": statistics.median(a / b for a, b in zip(reference, timings.factors)),
        "gflops": flops / 1e9,
        "share_of_peak": flops / peak,
        "peak_memory_bytes": timings.memory,
    }


def _cells(result):
    """A result as a row of the table."""
    digits = {"audio_seconds": 1, "real_time_factor": 4, "standard_deviation": 4, "speed_ratio": 2, "gflops": 1}
    cells = [number(value, digits[key]) if key in digits else value for key, value in result.items()]
    return [*cells[:-2], f"{result['share_of_peak']:.0%}", f"{result['peak_memory_bytes'] / 2**20:.0f}"]


def run(arguments):
    if arguments.start_up and not arguments.checkpoint:
        raise InputError("--start_up times inference.py, which needs a --checkpoint")
    if arguments.output:
        check_output(arguments.output)
        for suffix in (".json", ".md"):
            check_output(arguments.output.with_suffix(suffix), [arguments.checkpoint, arguments.config, arguments.filelist, arguments.onnx])
    # oneDNN keeps 1,024 compiled kernels, fewer than a few variants need: each would push those of the others out.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "20000")
    device = pick_device()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.streaming and not arguments.cases:
        raise InputError("--streaming needs --cases, which say what streams")
    if arguments.cases:
        _show(*(run_streaming if arguments.streaming else run_cases)(arguments, device), arguments.output)
        return 0
    if arguments.checkpoint:
        network, config = network_of_checkpoint(arguments.checkpoint, device)
    else:
        network, config = network_of_config(arguments.config, device)
    textbook = [] if config.network.causal else [PLAIN]
    names = arguments.variants or list(dict.fromkeys([*textbook, "float32", _name_of(fastest_dtype(device))]))
    variants = make_variants([*names, *([ONNX] if arguments.onnx else [])], network, config, arguments, device)
    excerpts = load_excerpts(arguments.filelist, LogMelSpectrogram(config.mel), arguments.recordings, arguments.seconds)
    say_which_are_shorter(excerpts, arguments.seconds, config.mel)
    peaks = {name: matmul_peak(device, dtype_of(name, device)) for name in variants}
    operations = operations_per_sample(network, config.mel.n_mels)

    results = []
    for length, batch_size, n_steps in itertools.product(arguments.lengths or [None], arguments.batch_sizes, arguments.steps):
        batches = batches_of(excerpts, batch_size)
        if length is not None:
            n_frames = max(1, round(length / seconds_per_frame(config.mel)))
            batches = [batch * batch_size for batch in of_length(excerpts, n_frames)]
        timed = {name: Timed(synthesize, any_schedule(n_steps), batches, config.mel) for name, synthesize in variants.items()}
        duration = next(iter(timed.values())).total_duration()
        timings = measure(timed, arguments.repeats, device)
        reference = next(iter(timings.values())).factors
        n_calls = 2 * n_steps - 1 if arguments.sampler == "heun" else n_steps
        flops_per_second = operations * n_calls * config.mel.sample_rate  # of audio
        for name, of_variant in timings.items():
            case = {"variant": name, "batch_size": batch_size, "steps": n_steps, "audio_seconds": duration}
            results.append(case | _summary(of_variant, reference, flops_per_second, peaks[name]))
    lines = [
        f"{machine(device)}, {arguments.sampler}; "
        f"{operations / 2e3:.1f} thousand multiply-adds per sample and step; peak of a matrix product: "
        + ", ".join(f"{peak / 1e9:.0f} GFLOP/s ({name})" for name, peak in peaks.items()),
        "",
        markdown_table(HEADINGS, [_cells(result) for result in results]),
    ]
    content = {"machine": lines[0], "results": results}
    if arguments.start_up:
        second = excerpts[0].mel[:, : round(1 / seconds_per_frame(config.mel))]
        content["start_to_finish_seconds"] = start_to_finish(arguments.checkpoint, second)
        lines.append(f"inference.py, six steps of one second, start to finish: {content['start_to_finish_seconds']:.1f} s")
    _show(lines, content, arguments.output)
    return 0


def _show(lines, content, output):
    text = "\n".join(lines)
    print(text)
    if output:
        save_json(content, output.with_suffix(".json"))
        save_text(text, output.with_suffix(".md"))


def _name_of(dtype):
    return next(name for name, value in DTYPES.items() if value == dtype)
