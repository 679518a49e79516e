"""Writes a network as ONNX: `python -m model.export CHECKPOINT OUT.onnx`. `onnx_inference.py` synthesises with the result.

The graph is one network call, (noisy waveform, mel, noise level) -> predicted noise, of any batch and length. Its metadata hold
`sample_rate`, `hop_length`, `n_mels` and the whole `config`. The waveform is whitened (`model.prior`), which the entry `whitened` of the
metadata says; files of earlier versions have no such entry, and contain the prior in their graph.
"""

import logging
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch

from common.errors import CommandParser, InputError, run_command
from common.files import check_not_input, save_atomically
from model.checkpoint import load_network
from model.config import parse_config
from model.prior import StandardNormalPrior, make_prior
from model.shallow import GriffinLimEstimate

OPSET = 18
EXAMPLE_SIZE = (2, 7)  # batch and frames; the graph is checked at others
CHECKED_SIZES = [(1, 1), (1, 40), (3, 11), (4, 2)]
TOLERANCE = 1e-4
INPUTS = ["y_n", "mel", "noise_level"]


class OnnxNetwork:
    """A network in onnxruntime, called as the one in PyTorch is, so that samplers and benchmarks take either.

    Args:
        path: file written by `export`.
        n_threads: threads to use; 0 leaves it to onnxruntime.

    Raises:
        InputError: the file is not such a graph.
    """

    def __init__(self, path, n_threads=0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.hop_length, text, is_whitened = int(metadata["hop_length"]), metadata["config"], "whitened" in metadata
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            raise InputError(f"{path}: not a network written by model.export ({type(error).__name__})") from None
        self.config = parse_config(text, f"{path} (configuration in the file)")
        self.prior, self.n_mels = make_prior(self.config), self.config.mel.n_mels
        self.estimate = GriffinLimEstimate(self.config.mel)
        self._std_of_graph = StandardNormalPrior() if is_whitened else self.prior  # of its waveform

    def __call__(self, y_n, mel, noise_level):
        """`[B, T]`, `[B, n_mels, frames]`, `[B]` -> predicted noise `[B, T]`, tensors on the CPU."""
        std = self._std_of_graph(mel.float())
        arrays = [(std * y_n.float()).numpy(), mel.float().numpy(), noise_level.double().numpy()]
        return torch.from_numpy(self.session.run(None, dict(zip(INPUTS, arrays)))[0]) / std


def example(batch, frames, hop_length, n_mels, seed=0):
    """Random arguments of a network: noisy waveform, mel, noise level."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, frames * hop_length, generator=generator),
        torch.randn(batch, n_mels, frames, generator=generator),
        torch.rand(batch, generator=generator, dtype=torch.float64),
    )


def export(network, config, path):
    """Writes a network as ONNX, with its configuration as metadata, atomically."""
    arguments = example(*EXAMPLE_SIZE, network.hop_length, config.mel.n_mels)
    batch, length, frames = (torch.export.Dim.DYNAMIC for _ in range(3))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            arguments,
            input_names=INPUTS,
            output_names=["predicted_noise"],
            opset_version=OPSET,
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 2: frames}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    metadata = {
        "sample_rate": str(config.mel.sample_rate),
        "hop_length": str(config.mel.hop_length),
        "n_mels": str(config.mel.n_mels),
        "config": config.model_dump_json(),
        "whitened": "true",
    }
    onnx.helper.set_model_props(model, metadata)
    save_atomically(lambda temporary: onnx.save(model, temporary), path)


@torch.inference_mode()
def largest_difference(network, onnx_network, config):
    """Largest difference between the predictions of both, at sizes that the graph was not made with."""
    differences = []
    for seed, (batch, frames) in enumerate(CHECKED_SIZES):
        arguments = example(batch, frames, network.hop_length, config.mel.n_mels, seed)
        differences.append((network(*arguments) - onnx_network(*arguments)).abs().max().item())
    return max(differences)


def main(argv=None):
    parser = CommandParser(prog="python -m model.export", description="Write a network as ONNX and check it.")
    parser.add_argument("checkpoint", help="any checkpoint that inference takes")
    parser.add_argument("output", help="file to write, .onnx")
    arguments = parser.parse_args(argv)
    if Path(arguments.output).suffix != ".onnx":
        raise InputError(f"{arguments.output}: the result is an .onnx file, found '{Path(arguments.output).suffix}'")
    if not Path(arguments.output).parent.is_dir():
        raise FileNotFoundError(2, "No such folder", str(Path(arguments.output).parent))
    check_not_input(arguments.output, [arguments.checkpoint])
    network, config = load_network(arguments.checkpoint)
    export(network, config, arguments.output)
    difference = largest_difference(network, OnnxNetwork(arguments.output), config)
    if difference > TOLERANCE:
        raise InputError(f"{arguments.output}: differs from PyTorch by {difference:.2g} (wanted: at most {TOLERANCE:g})")
    print(f"{arguments.output}: agrees with PyTorch within {difference:.1g} at batches and lengths {CHECKED_SIZES}")
    return 0


if __name__ == "__main__":
    run_command(main)
