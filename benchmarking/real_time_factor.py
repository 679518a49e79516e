"""`benchmark.py rtf`: how many seconds of computing a second of audio takes, for batch sizes and numbers of steps."""

import itertools
from pathlib import Path

import numpy as np
import torch

from benchmarking.excerpts import load_excerpts
from benchmarking.tables import markdown_table, save_json
from benchmarking.timing import device_name, peak_memory, reset_peak_memory, synchronized_time
from model.checkpoint import load_network
from model.errors import InputError
from model.mel import LogMelSpectrogram
from model.noise_schedule import linear
from model.sampler import find_sampler

WARM_UP_RUNS = 2


def _mel_batches(excerpts, batch_size, floor):
    """Mels `[batch_size, n_mels, frames]` of consecutive excerpts, the shorter padded with silence, and seconds of audio.

    What is left over at the end makes no batch, unless there would be none.
    """
    n_batches = max(1, len(excerpts) // batch_size)
    for number in range(n_batches):
        group = [excerpts[(number * batch_size + i) % len(excerpts)] for i in range(batch_size)]
        frames = max(excerpt.mel.shape[1] for excerpt in group)
        padded = [
            torch.nn.functional.pad(excerpt.mel, (0, frames - excerpt.mel.shape[1]), value=floor) for excerpt in group
        ]
        yield torch.stack(padded), sum(len(excerpt.waveform) for excerpt in group)


def measure(network, sample, batches, n_steps, sample_rate, repeats, device):
    """Real-time factors `[repeats * batches]` and peak memory in bytes, after a warm-up.

    Args:
        sample: a sampler.
        batches: list of (mel, number of samples that count).
    """
    schedule = linear(n_steps, 1e-6, 0.01)  # what the betas are makes no difference to the time
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(WARM_UP_RUNS):
        sample(network, batches[0][0], schedule, generator)
    reset_peak_memory(device)
    factors = []
    for mel, n_samples in batches * repeats:
        start = synchronized_time(device)
        sample(network, mel, schedule, generator)
        factors.append((synchronized_time(device) - start) / (n_samples / sample_rate))
    return np.array(factors), peak_memory(device)


def add_arguments(parser):
    parser.add_argument("-ch", "--checkpoint", required=True, help="network to time; an .onnx file runs in onnxruntime")
    parser.add_argument("--filelist", required=True, help="recordings whose mels are synthesised")
    parser.add_argument("--steps", type=int, nargs="+", default=[6], help="numbers of denoising steps (default: 6)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1], help="(default: 1)")
    parser.add_argument("--sampler", default="ancestral", help="(default: %(default)s)")
    parser.add_argument("--recordings", type=int, help="how many, spread over the filelist (default: all)")
    parser.add_argument("--seconds", type=float, help="of each recording (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="how often to time every batch (default: %(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a core)")
    parser.add_argument("-o", "--output", type=Path, help="write the table as .md and .json with this path's stem too")


def _load(path, device, n_threads):
    """Network, configuration, and the device that it computes on: an .onnx file runs in onnxruntime, on the CPU."""
    if path.endswith(".onnx"):
        from model.export import OnnxNetwork  # only here: most have no ONNX file

        network = OnnxNetwork(path, n_threads or 0)
        return network, network.config, torch.device("cpu")
    network, config = load_network(path)
    return network.to(device), config, device


def run(arguments):
    for key in ("steps", "batch_sizes", "repeats", "threads"):
        values = np.atleast_1d(getattr(arguments, key) or 1)
        if values.min() < 1:
            raise InputError(f"--{key} is {values.min()} (wanted: 1 or more)")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    sample = find_sampler(arguments.sampler)
    network, config, device = _load(arguments.checkpoint, device, arguments.threads)
    mel = LogMelSpectrogram(config.mel)
    excerpts = load_excerpts(arguments.filelist, mel, arguments.recordings, arguments.seconds)
    silence = min(float(excerpt.mel.min()) for excerpt in excerpts)

    rows, results = [], []
    for batch_size, n_steps in itertools.product(arguments.batch_sizes, arguments.steps):
        batches = [(mel.to(device), n) for mel, n in _mel_batches(excerpts, batch_size, silence)]
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            factors, memory = measure(
                network, sample, batches, n_steps, config.mel.sample_rate, arguments.repeats, device
            )
        result = {
            "batch_size": batch_size,
            "steps": n_steps,
            "real_time_factor": float(factors.mean()),
            "standard_deviation": float(factors.std()),
            "n_timings": len(factors),
            "peak_memory_bytes": memory,
        }
        results.append(result)
        rows.append([batch_size, n_steps, f"{factors.mean():.4f}", f"{factors.std():.4f}", len(factors), f"{memory / 2**20:.0f}"])
    table = markdown_table(["batch", "steps", "real-time factor", "standard deviation", "timings", "peak memory (MiB)"], rows)
    runtime = "onnxruntime" if arguments.checkpoint.endswith(".onnx") else "PyTorch"
    where = f"{device_name(device)}, {torch.get_num_threads()} CPU threads, {runtime}, {arguments.precision}, {arguments.sampler}"
    print(f"{where}\n\n{table}")
    if arguments.output:
        save_json({"device": where, "results": results}, arguments.output.with_suffix(".json"))
        arguments.output.with_suffix(".md").write_text(f"{where}\n\n{table}", encoding="utf-8")
    return 0
