"""Writes a network, or a whole synthesis, as ONNX: `python -m model.export CHECKPOINT OUT.onnx [-ns SCHEDULE]`, for `onnx_inference.py`.

With a schedule the graph is the synthesis, (mel, noise) -> waveform: prior, estimate, all steps and GLA-Grad (`model.synthesis_graph`). Its
metadata say how many noises it takes (`n_noises`), and how short a mel may be (`fewest_frames`).

Without one the graph is one network call, (noisy waveform, mel, noise level) -> predicted noise. The waveform is whitened (`model.prior`),
which the entry `whitened` of the metadata says; files of earlier versions have no such entry, and contain the prior in their graph.

Both are for any batch and length. The metadata of both hold `sample_rate`, `hop_length`, `n_mels` and the whole `config`.
"""

import logging
import sys
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch

from common.audio import signal_to_noise
from common.errors import CommandParser, InputError, non_negative_int, positive_int, run_command
from common.files import check_not_input, replacing, save_atomically
from model.checkpoint import build_network, read_checkpoint, schedule_warnings
from model.config import parse_config
from model.mel.transform import compress
from model.prior import StandardNormalPrior, make_prior
from model.schedule_text import FORMS, find_schedule
from model.shallow import GriffinLimEstimate
from model.synthesis_graph import Synthesis

OPSET = 18
EXAMPLE_SIZE = (2, 7)  # batch and frames; the graph is checked at others
CHECKED_SIZES = [(1, 1), (1, 40), (3, 11), (4, 2)]
TOLERANCE = 1e-4  # of a network call
LEAST_SYNTHESIS_SNR = 40  # dB; the rounding of one step grows in the next ones, and with iterations of Griffin-Lim
INPUTS = ["y_n", "mel", "noise_level"]
SYNTHESIS_INPUTS = ["mel", "noise"]


def _session(path, n_threads, inputs, kind):
    """A session, and the metadata and configuration of its graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        text = metadata["config"]
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise InputError(f"{path}: not {kind} written by model.export ({type(error).__name__})") from None
    found = [node.name for node in session.get_inputs()]
    if found != inputs:
        raise InputError(f"{path}: not {kind} written by model.export (its inputs are {', '.join(found)}; wanted: {', '.join(inputs)})")
    return session, metadata, parse_config(text, f"{path} (configuration in the file)")


class OnnxNetwork:
    """A network in onnxruntime, called as the one in PyTorch is, so that samplers and benchmarks take either.

    Args:
        path: file written by `export`.
        n_threads: threads to use; 0 leaves it to onnxruntime.

    Raises:
        InputError: the file is not such a graph.
    """

    def __init__(self, path, n_threads=0):
        self.session, metadata, self.config = _session(path, n_threads, INPUTS, "a network")
        self.hop_length, self.n_mels = self.config.mel.hop_length, self.config.mel.n_mels
        self.prior, self.estimate = make_prior(self.config), GriffinLimEstimate(self.config.mel)
        self._std_of_graph = StandardNormalPrior() if "whitened" in metadata else self.prior  # of its waveform

    def __call__(self, y_n, mel, noise_level):
        """`[B, T]`, `[B, n_mels, frames]`, `[B]` -> predicted noise `[B, T]`, tensors on the CPU."""
        std = self._std_of_graph(mel.float())
        arrays = [(std * y_n.float()).numpy(), mel.float().numpy(), noise_level.double().numpy()]
        return torch.from_numpy(self.session.run(None, dict(zip(INPUTS, arrays)))[0]) / std


class OnnxSynthesis:
    """A `model.synthesis_graph.Synthesis` in onnxruntime.

    Args, Raises: as `OnnxNetwork`, of a file written by `export_synthesis`.

    Attributes:
        n_noises, fewest_frames: as of `Synthesis`.
        n_steps: of its schedule.
    """

    def __init__(self, path, n_threads=0):
        self.session, metadata, self.config = _session(path, n_threads, SYNTHESIS_INPUTS, "a synthesis")
        self.n_noises, self.fewest_frames, self.n_steps = (int(metadata[key]) for key in ("n_noises", "fewest_frames", "steps"))

    def __call__(self, mel, noise):
        """`[B, n_mels, frames]`, `[B, n_noises, T]` -> waveform `[B, T]`, tensors on the CPU."""
        return torch.from_numpy(self.session.run(None, {"mel": mel.float().numpy(), "noise": noise.float().numpy()})[0])


def example(batch, frames, hop_length, n_mels, seed=0):
    """Random arguments of a network: noisy waveform, mel, noise level."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, frames * hop_length, generator=generator),
        torch.randn(batch, n_mels, frames, generator=generator),
        torch.rand(batch, generator=generator, dtype=torch.float64),
    )


def synthesis_example(synthesis, batch, frames, mel_config, seed=0):
    """Random arguments of a `Synthesis`: a mel about as loud as speech, and noise."""
    generator = torch.Generator().manual_seed(seed)
    mel = compress(2 * torch.randn(batch, mel_config.n_mels, frames, generator=generator) - 4, mel_config)
    return mel, torch.randn(batch, synthesis.n_noises, frames * mel_config.hop_length, generator=generator)


def _write(module, arguments, inputs, output, dynamic_shapes, config, metadata, path):
    """Writes a module as ONNX, atomically, with its configuration and more in the metadata."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            arguments,
            input_names=inputs,
            output_names=[output],
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            verbose=False,
        )
    model, mel = program.model_proto, config.mel
    facts = {"sample_rate": mel.sample_rate, "hop_length": mel.hop_length, "n_mels": mel.n_mels, "config": config.model_dump_json()}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in (facts | metadata).items()})
    save_atomically(lambda temporary: onnx.save(model, temporary), path)


def export(network, config, path):
    """Writes a network as ONNX, with its configuration as metadata, atomically."""
    arguments = example(*EXAMPLE_SIZE, network.hop_length, config.mel.n_mels)
    batch, length, frames = (torch.export.Dim.DYNAMIC for _ in range(3))
    shapes = ({0: batch, 1: length}, {0: batch, 2: frames}, {0: batch})
    _write(network, arguments, INPUTS, "predicted_noise", shapes, config, {"whitened": "true"}, path)


def export_synthesis(synthesis, config, path):
    """Writes a `Synthesis` as ONNX, atomically, with what it takes as metadata."""
    batch, frames = EXAMPLE_SIZE
    arguments = synthesis_example(synthesis, batch, frames + synthesis.fewest_frames, config.mel)
    dynamic = torch.export.Dim.DYNAMIC
    metadata = {"n_noises": synthesis.n_noises, "fewest_frames": synthesis.fewest_frames, "steps": len(synthesis.schedule)}
    _write(synthesis, arguments, SYNTHESIS_INPUTS, "waveform", ({0: dynamic, 2: dynamic},) * 2, config, metadata, path)


@torch.inference_mode()
def largest_difference(network, onnx_network, config):
    """Largest difference between the predictions of both, at sizes that the graph was not made with."""
    differences = []
    for seed, (batch, frames) in enumerate(CHECKED_SIZES):
        arguments = example(batch, frames, network.hop_length, config.mel.n_mels, seed)
        differences.append((network(*arguments) - onnx_network(*arguments)).abs().max().item())
    return max(differences)


@torch.inference_mode()
def least_synthesis_snr(synthesis, onnx_synthesis, config):
    """Least signal-to-noise ratio, in dB, of the graph's waveforms to PyTorch's, at sizes that the graph was not made with."""
    ratios = []
    for seed, (batch, frames) in enumerate(CHECKED_SIZES):
        frames = max(frames, synthesis.fewest_frames)
        arguments = synthesis_example(synthesis, batch, frames, config.mel, seed)
        ratios.append(signal_to_noise(synthesis(*arguments), onnx_synthesis(*arguments)))
    return min(ratios)


def main(argv=None):
    parser = CommandParser(prog="python -m model.export", description="Write a network, or a whole synthesis, as ONNX and check it.")
    parser.add_argument("checkpoint", help="any checkpoint that inference takes")
    parser.add_argument("output", help="file to write, .onnx")
    parser.add_argument("-ns", "--noise_schedule", help=f"write the whole synthesis with this schedule: {FORMS}")
    parser.add_argument("--steps", type=positive_int, metavar="N", help="with -ns: follow the curve of the schedule in N steps")
    parser.add_argument("--sampler", help="with -ns: as in inference.py")
    parser.add_argument("--gla_grad", type=non_negative_int, default=0, metavar="N", help="with -ns: iterations of GLA-Grad (default: 0)")
    arguments = parser.parse_args(argv)
    if Path(arguments.output).suffix != ".onnx":
        raise InputError(f"{arguments.output}: the result is an .onnx file, found '{Path(arguments.output).suffix}'")
    if not Path(arguments.output).parent.is_dir():
        raise FileNotFoundError(2, "No such folder", str(Path(arguments.output).parent))
    if not arguments.noise_schedule and (arguments.steps or arguments.sampler or arguments.gla_grad):
        raise InputError("--steps, --sampler and --gla_grad are of a synthesis, which needs a --noise_schedule")
    check_not_input(arguments.output, [arguments.checkpoint, arguments.noise_schedule])
    checkpoint = read_checkpoint(arguments.checkpoint)
    network, config = build_network(checkpoint, arguments.checkpoint), checkpoint.config
    with replacing(arguments.output) as unchecked:
        if arguments.noise_schedule:
            schedule = find_schedule(arguments.noise_schedule, arguments.steps)
            for line in schedule_warnings(schedule, checkpoint.starts):
                print(f"warning: {line}", file=sys.stderr)
            synthesis = Synthesis(network, config.mel, schedule, arguments.sampler, arguments.gla_grad).eval()
            export_synthesis(synthesis, config, unchecked)
            found = least_synthesis_snr(synthesis, OnnxSynthesis(unchecked), config)
            agrees, unit, wanted = found >= LEAST_SYNTHESIS_SNR, "dB to PyTorch", f"{LEAST_SYNTHESIS_SNR} or more"
        else:
            export(network, config, unchecked)
            found = largest_difference(network, OnnxNetwork(unchecked), config)
            agrees, unit, wanted = found <= TOLERANCE, "from PyTorch", f"at most {TOLERANCE:g}"
        if not agrees:
            raise InputError(f"{arguments.output}: is {found:.2g} {unit} (wanted: {wanted})")
    print(f"{arguments.output}: agrees with PyTorch at batches and lengths {CHECKED_SIZES} ({found:.2g} {unit}; wanted: {wanted})")
    return 0


if __name__ == "__main__":
    run_command(main)
