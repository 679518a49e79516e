"""Networks as `benchmark.py rtf` times them, and functions that synthesise with them."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.tools.textbook import textbook
from common.device import DTYPES, autocast, fastest_dtype
from common.errors import InputError
from model.checkpoint import load_network
from model.config import load_config
from model.network import new_network
from model.sampler import STREAMABLE, find_sampler
from vocoder import Vocoder, compiled

PLAIN, COMPILED, ONNX = "plain", "compiled", "onnx"
NAMES = [PLAIN, *DTYPES, COMPILED]  # of the variants that a command line takes


def network_of_config(path, device):
    """An untrained network of a configuration, and its `Config`."""
    config = load_config(path)
    return new_network(config).to(device).eval().requires_grad_(False), config


def network_of_checkpoint(path, device):
    """The network of a checkpoint, and its `Config`."""
    network, config = load_network(path)
    return network.to(device).requires_grad_(False), config


def network_of(path, device):
    """The network of a configuration (`.json`) or a checkpoint, and its `Config`."""
    return (network_of_config if str(path).endswith(".json") else network_of_checkpoint)(path, device)


def _whole(sample, network, device, dtype=torch.float32):
    """A function (mels, schedule) that samples them as one batch, the shorter padded."""

    def synthesize(mels, schedule):
        frames = max(mel.shape[1] for mel in mels)
        padded = [torch.nn.functional.pad(mel, (0, frames - mel.shape[1]), value=float(mel.min())) for mel in mels]
        with torch.inference_mode(), autocast(device, dtype):
            sample(network, torch.stack(padded).to(device), schedule, torch.Generator(device).manual_seed(0))

    return synthesize


def _in_chunks(network, mel_config, arguments, device, dtype, gla_grad):
    """A function (mels, schedule) that does what `inference.py` does."""

    def synthesize(mels, schedule):
        options = {"chunk_frames": arguments.chunk_frames, "sampler": arguments.sampler, "gla_grad": gla_grad}
        for _ in Vocoder(network, mel_config, schedule, device, dtype, **options).stream(mels):  # what `inference.py` times
            pass

    return synthesize


def synthesis_of_graph(path, n_threads):
    """A function (mels, schedule) that synthesises with a graph that has a schedule of its own, one mel after the other; and the graph."""
    from model.export import OnnxSynthesis  # only here: most have no ONNX file

    graph, generator = OnnxSynthesis(path, n_threads), torch.Generator().manual_seed(0)

    def synthesize(mels, schedule):
        for mel in mels:
            graph(mel[None], torch.randn(1, graph.n_noises, mel.shape[1] * graph.config.mel.hop_length, generator=generator))

    return synthesize, graph


def dtype_of(name, device):
    """What a variant computes in; compiled, what `inference.py --compile` computes in."""
    return fastest_dtype(device) if name == COMPILED else DTYPES.get(name, torch.float32)


def make_variants(names, network, config, arguments, device, gla_grad=0):
    """Name -> function (mels, schedule) that synthesises; `config` is the network's `Config`.

    Args:
        gla_grad: iterations of GLA-Grad, in those that can stream.
    """
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
                variants[name] = _in_chunks(of_variant, mel_config, arguments, device, dtype, gla_grad)
            else:
                variants[name] = _whole(sample, of_variant, device, dtype)
    return variants


def operations_per_sample(network, n_mels):
    """Floating-point operations of one network call for a sample of audio, a multiply-add being two."""
    device = next(network.parameters()).device
    frames = 20
    mel = torch.zeros(1, n_mels, frames, device=device)
    y = torch.zeros(1, frames * network.hop_length, device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(y, mel, torch.ones(1, device=device))
    return counter.get_total_flops() / y.numel()
