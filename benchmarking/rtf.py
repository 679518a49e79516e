"""`benchmark.py rtf`: how many seconds of computing a second of audio takes, for variants of the network side by side.

Variants take turns on the same mels, each timing beside those of the others. GFLOP/s count the useful operations: those of
the network as it is, on the samples that are asked for. The peak is that of a matrix product in the same precision.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.tools.excerpts import load_excerpts, say_which_are_shorter
from benchmarking.tools.tables import check_output, markdown_table, number, save_json
from benchmarking.tools.textbook import textbook
from benchmarking.tools.timing import device_name, matmul_peak, peak_memory, reset_peak_memory
from common.device import DTYPES, autocast, fastest_dtype, pick_device, synchronized_time
from common.errors import InputError, positive_float, positive_int
from common.files import save_text
from model.checkpoint import load_network
from model.config import load_config
from model.mel.transform import LogMelSpectrogram
from model.network import new_network
from model.noise_schedule import linear
from model.sampler import DEFAULT_SAMPLER, SAMPLERS, STREAMABLE, find_sampler
from vocoder import Vocoder, compiled

PLAIN, COMPILED, ONNX = "plain", "compiled", "onnx"
ROOT = Path(__file__).parent.parent


@dataclass
class Timings:
    """Of one variant: the real-time factor of each run, and the largest memory of all runs, in bytes."""

    factors: list = field(default_factory=list)
    memory: int = 0


def _whole(sample, network, device, dtype=torch.float32):
    """A function (mels, schedule) that samples them as one batch, the shorter padded."""

    def synthesize(mels, schedule):
        frames = max(mel.shape[1] for mel in mels)
        padded = [torch.nn.functional.pad(mel, (0, frames - mel.shape[1]), value=float(mel.min())) for mel in mels]
        with torch.inference_mode(), autocast(device, dtype):
            sample(network, torch.stack(padded).to(device), schedule, torch.Generator(device).manual_seed(0))

    return synthesize


def _in_chunks(network, mel_config, arguments, device, dtype):
    """A function (mels, schedule) that does what `inference.py` does."""

    def synthesize(mels, schedule):
        options = {"chunk_frames": arguments.chunk_frames, "sampler": arguments.sampler}
        for _ in Vocoder(network, mel_config, schedule, device, dtype, **options).stream(mels):  # what `inference.py` times
            pass

    return synthesize


def dtype_of(name, device):
    """What a variant computes in; compiled, what `inference.py --compile` computes in."""
    return fastest_dtype(device) if name == COMPILED else DTYPES.get(name, torch.float32)


def make_variants(names, network, config, arguments, device):
    """Name -> function (mels, schedule) that synthesises; `config` is the network's `Config`."""
    mel_config, network_config = config.mel, config.network
    sample = find_sampler(arguments.sampler)
    variants = {}
    for name in names:
        if name == PLAIN:
            variants[name] = _whole(sample, textbook(network, config), device)
        elif name == ONNX:
            from model.export import OnnxNetwork  # only here: most have no ONNX file

            onnx_network = OnnxNetwork(arguments.onnx, arguments.threads or 0)
            if (onnx_network.config.mel, onnx_network.config.network) != (mel_config, network_config):
                raise InputError(f"{arguments.onnx}: another network (wanted: the one to time, as written by model.export)")
            variants[name] = _whole(sample, onnx_network, torch.device("cpu"))
        else:
            of_variant = compiled(network, device) if name == COMPILED else network
            dtype = dtype_of(name, device)
            if arguments.sampler.partition(":")[0] in STREAMABLE:
                variants[name] = _in_chunks(of_variant, mel_config, arguments, device, dtype)
            else:
                variants[name] = _whole(sample, of_variant, device, dtype)
    return variants


def measure(variants, batches, n_steps, seconds_per_frame, repeats, device):
    """Times all variants in turn on each batch, after a warm-up.

    Args:
        variants: name -> function (mels, schedule).
        batches: list of lists of mels `[n_mels, frames]`.

    Returns:
        name -> `Timings`, the n-th factor of each made at about the same time.
    """
    schedule = linear(n_steps, 1e-6, 0.01)  # what the betas are makes no difference to the time
    results = {name: Timings() for name in variants}
    for synthesize in variants.values():
        for frames in (100, 1000):  # two lengths: a compiled network is compiled for any length then
            synthesize([mel[:, :frames] for mel in batches[0]], schedule)
    for mels in batches * repeats:
        duration = sum(mel.shape[1] for mel in mels) * seconds_per_frame
        for name, synthesize in variants.items():
            reset_peak_memory(device)
            start = synchronized_time(device)
            synthesize(mels, schedule)
            results[name].factors.append((synchronized_time(device) - start) / duration)
            results[name].memory = max(results[name].memory, peak_memory(device))
    return results


def operations_per_sample(network, n_mels):
    """Floating-point operations of one network call for a sample of audio, a multiply-add being two."""
    device = next(network.parameters()).device
    frames = 20
    mel = torch.zeros(1, n_mels, frames, device=device)
    y = torch.zeros(1, frames * network.hop_length, device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(y, mel, torch.ones(1, device=device))
    return counter.get_total_flops() / y.numel()


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
    parser.add_argument("--filelist", required=True, help="recordings whose mels are synthesised")
    choices = [PLAIN, *DTYPES, COMPILED]
    parser.add_argument(
        "--variants", nargs="+", choices=choices, help=f"default: {PLAIN}, the textbook network in float32, and the device's precisions"
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
    if arguments.checkpoint:
        network, config = load_network(arguments.checkpoint)
    else:
        config = load_config(arguments.config)
        network = new_network(config)
    network.to(device).eval().requires_grad_(False)
    names = arguments.variants or list(dict.fromkeys([PLAIN, "float32", _name_of(fastest_dtype(device))]))
    variants = make_variants([*names, *([ONNX] if arguments.onnx else [])], network, config, arguments, device)
    excerpts = load_excerpts(arguments.filelist, LogMelSpectrogram(config.mel), arguments.recordings, arguments.seconds)
    say_which_are_shorter(excerpts, arguments.seconds, config.mel)
    seconds_per_frame = config.mel.hop_length / config.mel.sample_rate
    peaks = {name: matmul_peak(device, dtype_of(name, device)) for name in variants}
    operations = operations_per_sample(network, config.mel.n_mels)

    results = []
    for length, batch_size, n_steps in itertools.product(arguments.lengths or [None], arguments.batch_sizes, arguments.steps):
        batches = batches_of(excerpts, batch_size)
        if length is not None:
            n_frames = max(1, round(length / seconds_per_frame))
            batches = [batch * batch_size for batch in of_length(excerpts, n_frames)]
        duration = sum(mel.shape[1] for batch in batches for mel in batch) * seconds_per_frame
        timings = measure(variants, batches, n_steps, seconds_per_frame, arguments.repeats, device)
        reference = next(iter(timings.values())).factors
        n_calls = 2 * n_steps - 1 if arguments.sampler == "heun" else n_steps
        flops_per_second = operations * n_calls * config.mel.sample_rate  # of audio
        for name, of_variant in timings.items():
            case = {"variant": name, "batch_size": batch_size, "steps": n_steps, "audio_seconds": duration}
            results.append(case | _summary(of_variant, reference, flops_per_second, peaks[name]))
    lines = [
        f"{device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, {arguments.sampler}; "
        f"{operations / 2e3:.1f} thousand multiply-adds per sample and step; peak of a matrix product: "
        + ", ".join(f"{peak / 1e9:.0f} GFLOP/s ({name})" for name, peak in peaks.items()),
        "",
        markdown_table(HEADINGS, [_cells(result) for result in results]),
    ]
    content = {"machine": lines[0], "results": results}
    if arguments.start_up:
        second = excerpts[0].mel[:, : round(1 / seconds_per_frame)]
        content["start_to_finish_seconds"] = start_to_finish(arguments.checkpoint, second)
        lines.append(f"inference.py, six steps of one second, start to finish: {content['start_to_finish_seconds']:.1f} s")
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        save_json(content, arguments.output.with_suffix(".json"))
        save_text(text, arguments.output.with_suffix(".md"))
    return 0


def _name_of(dtype):
    return next(name for name, value in DTYPES.items() if value == dtype)
