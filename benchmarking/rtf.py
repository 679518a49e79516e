"""`benchmark.py rtf`: how many seconds of computing a second of audio takes, for several networks, precisions and numbers of steps.

They take turns on the same mels, each timing beside those of the others. With --streaming the frames of a mel come in pieces, and the table
says how long a listener waits, and whether the machine keeps up.
"""

import itertools
import os
import re
import statistics
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarking.excerpts import load_excerpts
from benchmarking.tables import device_name, markdown_table, number, save_json
from common.device import DTYPES, fastest_dtype, pick_device, synchronized_time
from common.errors import InputError, positive_float, positive_int
from common.files import check_not_input, save_text
from extensions.registry import load_network, make_network
from model.config import load_config
from model.mel import LogMelSpectrogram
from model.noise_schedule import find_schedule, linear
from vocoder import Vocoder

COMPILED = "compiled"
VARIANTS = [*DTYPES, COMPILED]


class Case(NamedTuple):
    """One of what is compared.

    Args:
        name: as the command line has it.
        config: its `Config`.
        mels: of the recordings, `[n_mels, frames]`.
        synthesize: a function of a list of mels.
        vocoder: the `Vocoder`; None for a graph.
    """

    name: str
    config: object
    mels: list
    synthesize: object
    vocoder: object = None

    def seconds_of(self, mels):
        return sum(mel.shape[1] for mel in mels) * self.config.mel.hop_length / self.config.mel.sample_rate

    def batches(self, size):
        """Lists of `size` consecutive mels; what is left over makes no batch, unless there would be none."""
        n_mels = len(self.mels)
        return [[self.mels[(first + i) % n_mels] for i in range(size)] for first in range(0, max(n_mels - size, 0) + 1, size)]


def make_case(text, arguments, device):
    """The `Case` of a text `NETWORK:VARIANT:STEPS[+N]`, or of the `.onnx` file of a whole synthesis.

    Raises:
        OSError, InputError: a file cannot be used, or the text is no case.
    """
    if text.endswith(".onnx"):
        return _graph_case(text, arguments)
    match = re.fullmatch(rf"([^:]+):({'|'.join(VARIANTS)}):(.+?)(?:\+([0-9]{{1,4}}))?", text)
    if not match:
        names = ", ".join(VARIANTS)
        raise InputError(f"{text}: no case (expected: NETWORK:VARIANT:STEPS or NETWORK:VARIANT:STEPS+N, VARIANT one of {names})")
    path, variant, steps, gla_grad = match.groups()
    if path.endswith(".json"):  # random weights are as fast as trained ones
        config = load_config(path)
        network = make_network(config).eval()
    else:
        network, config = load_network(path)
    # What the betas are makes no difference to the time.
    schedule = linear(int(steps), 1e-6, 0.01) if steps.isdecimal() and int(steps) else find_schedule(steps)
    is_compiled = variant == COMPILED
    dtype, options = fastest_dtype(device) if is_compiled else DTYPES[variant], (arguments.sampler, int(gla_grad or 0))
    vocoder = Vocoder(network, config, schedule, device, dtype, arguments.chunk_frames, *options, compile=is_compiled)
    return Case(text, config, _mels(config, arguments), lambda mels: list(vocoder.stream(mels)), vocoder)


def _graph_case(path, arguments):
    from extensions.onnx.export import OnnxSynthesis  # only here: most have no ONNX file

    graph, generator = OnnxSynthesis(path, arguments.threads or 0), torch.Generator().manual_seed(0)

    def synthesize(mels):
        for mel in mels:
            graph(mel[None], torch.randn(1, graph.n_noises, mel.shape[1] * graph.config.mel.hop_length, generator=generator))

    return Case(path, graph.config, _mels(graph.config, arguments), synthesize)


def _mels(config, arguments):
    excerpts = load_excerpts(arguments.filelist, LogMelSpectrogram(config.mel), arguments.recordings, arguments.seconds)
    return [excerpt.mel for excerpt in excerpts]


def rtf_results(cases, arguments, device):
    """A dictionary of figures for each batch size and case: all are timed in turn, after a warm-up."""
    timed = [(case, size, case.batches(size)) for size in arguments.batch_sizes for case in cases]
    for case, _, batches in timed:
        for frames in (100, 1000):  # two lengths: a compiled network is compiled for any length then
            case.synthesize([mel[:, :frames] for mel in batches[0]])
    factors = [[] for _ in timed]
    for i in [*range(max(len(batches) for _, _, batches in timed))] * arguments.repeats:
        for (case, _, batches), of_case in zip(timed, factors):
            batch, start = batches[i % len(batches)], synchronized_time(device)
            case.synthesize(batch)
            of_case.append((synchronized_time(device) - start) / case.seconds_of(batch))
    return [
        {
            "case": case.name,
            "batch_size": size,
            "parameters": case.vocoder and sum(parameter.numel() for parameter in case.vocoder.pipeline.network.parameters()),
            "real_time_factor": statistics.fmean(own),
            "standard_deviation": statistics.pstdev(own),
            "speed_ratio": statistics.median(a / b for a, b in zip(factors[0], own)),
            "n_timings": len(own),
        }
        for (case, size, _), own in zip(timed, factors)
    ]


def streaming_results(cases, arguments, device):
    """A dictionary of figures for each case and length of the pieces: the slowest piece and all of them, as shares of their length."""
    results = []
    for case, piece in itertools.product(cases, arguments.streaming):
        if case.vocoder is None:
            raise InputError(f"{case.name}: --streaming takes no graph of a whole synthesis")
        timings = []  # (seconds of computing, seconds of the piece)
        for mel in case.mels * (arguments.repeats + 1):
            stream, pieces = case.vocoder.open_stream(), mel.split(piece, dim=1)
            for i, frames in enumerate(pieces):
                start = synchronized_time(device)
                stream.push(frames, i == len(pieces) - 1)
                timings.append((synchronized_time(device) - start, case.seconds_of([frames])))
        timings = timings[len(timings) // (arguments.repeats + 1) :]  # the first round is the warm-up
        result = {"case": case.name, "piece_frames": piece, "latency_seconds": stream.latency_seconds}
        computing, playing = map(sum, zip(*timings))
        results.append(result | {"slowest_piece": max(a / b for a, b in timings), "computing_share": computing / playing})
    return results


def add_arguments(parser):
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("-ch", "--checkpoint", help="network to time")
    network.add_argument("-c", "--config", help="configuration of a network to time with random weights, as fast as trained ones")
    network.add_argument(
        "--cases",
        nargs="+",
        metavar="NETWORK:VARIANT:STEPS[+N]",
        help="several networks (configurations or checkpoints), each in one variant and with a number of steps or a noise schedule, +N: N "
        "iterations of GLA-Grad after them; or the .onnx file of a whole synthesis; the first is the reference",
    )
    parser.add_argument("--filelist", required=True, help="recordings whose mels are synthesised")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: the device's precisions; not with --cases")
    parser.add_argument(
        "--steps", type=positive_int, nargs="+", default=[6], help="numbers of denoising steps; not with --cases (default: 6)"
    )
    parser.add_argument("--batch_sizes", type=positive_int, nargs="+", default=[1], help="(default: 1)")
    parser.add_argument("--sampler", help="as in inference.py")
    parser.add_argument("--chunk_frames", type=positive_int, default=400, help="mel frames at once (default: %(default)s)")
    parser.add_argument("--recordings", type=positive_int, help="how many, spread over the filelist (default: all)")
    parser.add_argument("--seconds", type=positive_float, help="of each recording (default: all)")
    parser.add_argument("--repeats", type=positive_int, default=3, help="timings of each batch (default: %(default)s)")
    parser.add_argument("--streaming", type=positive_int, nargs="+", metavar="FRAMES", help="let frames arrive in pieces of so many")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: one a core)")
    parser.add_argument("-o", "--output", type=Path, help="write the table as .md and .json with this path's stem too")


def run(arguments):
    # oneDNN keeps 1,024 compiled kernels, fewer than a few variants need: each would push those of the others out.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "20000")
    device, path = pick_device(), arguments.checkpoint or arguments.config
    if arguments.output:
        check_not_input(arguments.output.with_suffix(".json"), [path, arguments.filelist])
        if not arguments.output.parent.is_dir():
            raise FileNotFoundError(2, "No such folder", str(arguments.output.parent))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    fastest = next(name for name, dtype in DTYPES.items() if dtype == fastest_dtype(device))
    variants = arguments.variants or dict.fromkeys(["float32", fastest])
    texts = arguments.cases or [f"{path}:{variant}:{steps}" for steps, variant in itertools.product(arguments.steps, variants)]
    cases = [make_case(text, arguments, device) for text in dict.fromkeys(texts)]
    machine = f"{device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    heading = f"{machine}; {cases[0].seconds_of(cases[0].mels):.1f} s of audio, {arguments.repeats} times each"
    results = (streaming_results if arguments.streaming else rtf_results)(cases, arguments, device)
    rows = [[number(value, 4) if isinstance(value, float) else value for value in result.values()] for result in results]
    text = f"{heading}\n\n{markdown_table([key.replace('_', ' ') for key in results[0]], rows)}"
    print(text)
    if arguments.output:
        save_json({"machine": heading, "results": results}, arguments.output.with_suffix(".json"))
        save_text(text, arguments.output.with_suffix(".md"))
    return 0
