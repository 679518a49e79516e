"""Writes a whole synthesis as ONNX: `python -m extensions.onnx.export CHECKPOINT OUT.onnx -ns SCHEDULE`, for `onnx_inference.py`.

The graph is (mel, noise) -> waveform: start, all steps, prior and GLA-Grad (`extensions.onnx.synthesis_graph`), for any batch and length.
Its metadata say how many noises it takes (`n_noises`), how short a mel may be (`fewest_frames`), `sample_rate`, `hop_length`, `n_mels`, the
number of `steps`, and the whole `config`.
"""

import logging
import sys
import warnings
from pathlib import Path

import torch

from common.audio import signal_to_noise
from common.errors import CommandParser, InputError, non_negative_int, positive_int, run_command
from common.files import check_not_input, replacing, save_atomically
from extensions.onnx.synthesis_graph import Synthesis
from extensions.registry import build_network, read_checkpoint
from model.checkpoint import schedule_warnings
from model.config import parse_config
from model.mel import compress
from model.noise_schedule import FORMS, find_schedule

OPSET = 18
EXAMPLE_SIZE = (2, 7)  # batch and frames; the graph is checked at others
CHECKED_SIZES = [(1, 1), (1, 40), (3, 11), (4, 2)]
LEAST_SNR = 40  # dB to PyTorch; the rounding of one step grows in the next ones, and with iterations of Griffin-Lim


class OnnxSynthesis:
    """A `Synthesis` in onnxruntime.

    Args:
        path: file written by `export`.
        n_threads: threads to use; 0 leaves it to onnxruntime.

    Attributes:
        config: the `Config`.
        n_noises, fewest_frames: as of `Synthesis`.
        n_steps: of its schedule.

    Raises:
        InputError: the file is not such a graph.
    """

    def __init__(self, path, n_threads=0):
        import onnxruntime  # optional

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.n_noises, self.fewest_frames, self.n_steps = (int(metadata[key]) for key in ("n_noises", "fewest_frames", "steps"))
            text = metadata["config"]
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            raise InputError(f"{path}: not a synthesis written by extensions.onnx.export ({type(error).__name__})") from None
        self.config = parse_config(text, f"{path} (configuration in the file)")

    def __call__(self, mel, noise):
        """`[B, n_mels, frames]`, `[B, n_noises, T]` -> waveform `[B, T]`, tensors on the CPU."""
        return torch.from_numpy(self.session.run(None, {"mel": mel.float().numpy(), "noise": noise.float().numpy()})[0])


def example(synthesis, batch, frames, mel_config, seed=0):
    """Random arguments of a `Synthesis`: a mel about as loud as speech, and noise."""
    generator = torch.Generator().manual_seed(seed)
    mel = compress(2 * torch.randn(batch, mel_config.n_mels, frames, generator=generator) - 4, mel_config)
    return mel, torch.randn(batch, synthesis.n_noises, frames * mel_config.hop_length, generator=generator)


def export(synthesis, config, path):
    """Writes a `Synthesis` as ONNX, atomically, with its configuration and what it takes as metadata."""
    import onnx  # optional

    batch, frames = EXAMPLE_SIZE
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(
            synthesis,
            example(synthesis, batch, frames + synthesis.fewest_frames, config.mel),
            input_names=["mel", "noise"],
            output_names=["waveform"],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},) * 2,
            dynamo=True,
            verbose=False,
        ).model_proto
    metadata = {key: getattr(config.mel, key) for key in ("sample_rate", "hop_length", "n_mels")}
    metadata |= {"n_noises": synthesis.n_noises, "fewest_frames": synthesis.fewest_frames, "steps": len(synthesis.pipeline.schedule)}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()} | {"config": config.model_dump_json()})
    save_atomically(lambda temporary: onnx.save(model, temporary), path)


@torch.inference_mode()
def least_snr(synthesis, onnx_synthesis, config):
    """Least signal-to-noise ratio, in dB, of the graph's waveforms to PyTorch's, at sizes that the graph was not made with."""
    ratios = []
    for seed, (batch, frames) in enumerate(CHECKED_SIZES):
        arguments = example(synthesis, batch, max(frames, synthesis.fewest_frames), config.mel, seed)
        ratios.append(signal_to_noise(synthesis(*arguments), onnx_synthesis(*arguments)))
    return min(ratios)


def main(argv=None):
    parser = CommandParser(prog="python -m extensions.onnx.export", description="Write a whole synthesis as ONNX and check it.")
    parser.add_argument("checkpoint", help="any checkpoint that inference takes")
    parser.add_argument("output", help="file to write, .onnx")
    parser.add_argument("-ns", "--noise_schedule", required=True, help=f"noise schedule: {FORMS}")
    parser.add_argument("--steps", type=positive_int, metavar="N", help="follow the curve of the schedule in N steps")
    parser.add_argument("--sampler", help="as in inference.py")
    parser.add_argument("--gla_grad", type=non_negative_int, default=0, metavar="N", help="iterations of GLA-Grad (default: 0)")
    arguments = parser.parse_args(argv)
    if Path(arguments.output).suffix != ".onnx":
        raise InputError(f"{arguments.output}: the result is an .onnx file, found '{Path(arguments.output).suffix}'")
    if not Path(arguments.output).parent.is_dir():
        raise FileNotFoundError(2, "No such folder", str(Path(arguments.output).parent))
    check_not_input(arguments.output, [arguments.checkpoint, arguments.noise_schedule])
    checkpoint = read_checkpoint(arguments.checkpoint)
    network, config = build_network(checkpoint, arguments.checkpoint), checkpoint.config
    schedule = find_schedule(arguments.noise_schedule, arguments.steps)
    for line in schedule_warnings(schedule, checkpoint.starts):
        print(f"warning: {line}", file=sys.stderr)
    synthesis = Synthesis(network, config, schedule, arguments.sampler, arguments.gla_grad).eval()
    with replacing(arguments.output) as unchecked:
        export(synthesis, config, unchecked)
        found = least_snr(synthesis, OnnxSynthesis(unchecked), config)
        if not found >= LEAST_SNR:
            raise InputError(f"{arguments.output}: is {found:.2g} dB to PyTorch (expected: {LEAST_SNR} or more)")
    print(f"{arguments.output}: agrees with PyTorch at batches and lengths {CHECKED_SIZES} ({found:.2g} dB; expected: {LEAST_SNR} or more)")
    return 0


if __name__ == "__main__":
    run_command(main)
