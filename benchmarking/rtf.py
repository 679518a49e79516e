"""`benchmark.py rtf`: how many seconds of computing a second of audio takes, for variants of the network side by side.

With --cases networks are compared, each with its own precision and number of steps.

Variants and cases take turns on the same mels, each timing beside those of the others. GFLOP/s count the useful operations: those of
the network as it is, on the samples that are asked for. The peak is that of a matrix product in the same precision.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
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
from model.config import MelConfig, load_config
from model.mel.transform import LogMelSpectrogram
from model.network import new_network
from model.noise_schedule import NoiseSchedule, linear
from model.sampler import DEFAULT_SAMPLER, SAMPLERS, STREAMABLE, find_sampler
from model.schedule_text import find_schedule
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


@dataclass
class Timed:
    """What is timed: a function (mels, schedule), its schedule, its batches, lists of mels `[n_mels, frames]`, and their `MelConfig`."""

    synthesize: Callable
    schedule: NoiseSchedule
    batches: list
    mel_config: MelConfig

    def warm_up(self):
        for frames in (100, 1000):  # two lengths: a compiled network is compiled for any length then
            self.synthesize([mel[:, :frames] for mel in self.batches[0]], self.schedule)

    def run(self, i):
        self.synthesize(self.batches[i], self.schedule)

    def duration(self, i):
        """Seconds of audio in batch i."""
        return sum(mel.shape[1] for mel in self.batches[i]) * seconds_per_frame(self.mel_config)

    def total_duration(self):
        return sum(map(self.duration, range(len(self.batches))))


def seconds_per_frame(mel_config):
    return mel_config.hop_length / mel_config.sample_rate


def any_schedule(n_steps):
    """A schedule of so many steps; what the betas are makes no difference to the time."""
    return linear(n_steps, 1e-6, 0.01)


def measure(timed, repeats, device):
    """Times all in turn on each batch, after a warm-up.

    Args:
        timed: name -> `Timed`, all with as many batches.

    Returns:
        name -> `Timings`, the n-th factor of each made at about the same time.
    """
    results = {name: Timings() for name in timed}
    for one in timed.values():
        one.warm_up()
    for i in [*range(len(next(iter(timed.values())).batches))] * repeats:
        for name, one in timed.items():
            reset_peak_memory(device)
            start = synchronized_time(device)
            one.run(i)
            results[name].factors.append((synchronized_time(device) - start) / one.duration(i))
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
    network.add_argument(
        "--cases",
        nargs="+",
        metavar="NETWORK:VARIANT:STEPS",
        help="several networks (configurations or checkpoints), each in one "
        "variant and with a number of steps or a noise schedule; the first is the reference; --variants, --steps and --onnx do not count",
    )
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


CASE_VARIANTS = [PLAIN, *DTYPES, COMPILED]
CASE_HEADINGS = [
    *("network, variant, steps", "parameters (M)", "multiply-adds of a call for a second (G)", "frames of context on each side"),
    *("real-time factor", "standard deviation", "times as fast as the first"),
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
    if arguments.cases:
        return run_cases(arguments, device)
    network, config = any_network(arguments.checkpoint or arguments.config, device)
    names = arguments.variants or list(dict.fromkeys([PLAIN, "float32", _name_of(fastest_dtype(device))]))
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
        f"{device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, {arguments.sampler}; "
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


def any_network(path, device):
    """The network of a checkpoint, or an untrained one of a configuration (.json), and its `Config`."""
    if Path(path).suffix == ".json":
        config = load_config(path)
        network = new_network(config)
    else:
        network, config = load_network(path)
    return network.to(device).eval().requires_grad_(False), config


def split_case(text):
    """The three parts of a case: path of the network, variant, and number of steps or noise schedule."""
    path, *rest = text.split(":", 2)
    if len(rest) < 2 or rest[0] not in CASE_VARIANTS:
        raise InputError(f"{text}: no case (wanted: NETWORK:VARIANT:STEPS, VARIANT one of {', '.join(CASE_VARIANTS)})")
    return path, *rest


def make_case(text, arguments, device):
    """The `Timed` of a case, and the facts about its network."""
    path, variant, steps = split_case(text)
    network, config = any_network(path, device)
    schedule = any_schedule(int(steps)) if steps.isdecimal() and int(steps) else find_schedule(steps)
    [synthesize] = make_variants([variant], network, config, arguments, device).values()
    excerpts = load_excerpts(arguments.filelist, LogMelSpectrogram(config.mel), arguments.recordings, arguments.seconds)
    facts = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds_per_second": operations_per_sample(network, config.mel.n_mels) * config.mel.sample_rate / 2,
        "context_frames": network.context_frames,
        "steps": len(schedule),
        "griffin_lim": schedule.griffin_lim,
    }
    return Timed(synthesize, schedule, batches_of(excerpts, 1), config.mel), facts


def run_cases(arguments, device):
    """Compares networks, each with its own variant and steps."""
    made = {text: make_case(text, arguments, device) for text in dict.fromkeys(arguments.cases)}
    timings = measure({text: timed for text, (timed, _) in made.items()}, arguments.repeats, device)
    reference = next(iter(timings.values())).factors
    results = []
    for text, (_, facts) in made.items():
        factors = timings[text].factors
        times = {"real_time_factor": float(np.mean(factors)), "standard_deviation": float(np.std(factors)), "n_timings": len(factors)}
        speed_ratio = statistics.median(a / b for a, b in zip(reference, factors))
        results.append({"case": text} | facts | times | {"speed_ratio": speed_ratio})
    timed = next(iter(made.values()))[0]
    machine = (
        f"{device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}; "
        f"{timed.total_duration():.1f} s of audio, {len(reference)} timings of each in turn"
    )
    rows = [
        [
            *(result["case"], f"{result['parameters'] / 1e6:.2f}", f"{result['multiply_adds_per_second'] / 1e9:.2f}"),
            *(result["context_frames"], number(result["real_time_factor"], 4), number(result["standard_deviation"], 4)),
            number(result["speed_ratio"], 1),
        ]
        for result in results
    ]
    _show([machine, "", markdown_table(CASE_HEADINGS, rows)], {"machine": machine, "results": results}, arguments.output)
    return 0


def _name_of(dtype):
    return next(name for name, value in DTYPES.items() if value == dtype)
