"""Writes any checkpoint that can be read as released weights: `python -m runs.convert IN OUT.safetensors`."""

from pathlib import Path

import torch

from common.errors import CommandParser, InputError, run_command
from common.files import check_not_input
from datasets import Recordings
from extensions.registry import build_network, read_checkpoint
from model.checkpoint import save_weights
from model.config import load_config
from model.mel import LogMelSpectrogram, statistics_of_recordings


def convert(source, target, config=None, recordings=None, dtype=None):
    """Writes a checkpoint of any kind as released weights.

    Args:
        config: as in `read_checkpoint`.
        recordings: iterable of waveforms `[T]` to take mel statistics of, for a checkpoint that has none.
        dtype: precision to write the weights in; None is that of the source. A network computes in float32 whatever its file has.

    Returns:
        the `Checkpoint` that was written.

    Raises:
        OSError, InputError: see `extensions.registry.load_network`; or the target is no `.safetensors` file, or the source itself.
    """
    if Path(target).suffix.lower() != ".safetensors":
        raise InputError(f"{target}: released weights are a .safetensors file, found '{Path(target).suffix}'")
    check_not_input(target, [source])
    checkpoint = read_checkpoint(source, config)
    network = build_network(checkpoint, source)
    if recordings is not None:
        mel_transform = LogMelSpectrogram(checkpoint.config.mel)
        checkpoint = checkpoint._replace(mel_statistics=statistics_of_recordings(recordings, mel_transform))
    save_weights(network, checkpoint.config, target, checkpoint.mel_statistics, dtype, checkpoint.starts)
    return checkpoint


def main(argv=None):
    parser = CommandParser(prog="python -m runs.convert", description=__doc__)
    parser.add_argument("source", metavar="IN", help="training state, released weights, or a public WaveGrad's .pt")
    parser.add_argument("target", metavar="OUT", help="file to write, .safetensors")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with")
    parser.add_argument("-r", "--recordings", help="filelist of training recordings, to record the statistics of their mels")
    parser.add_argument("--half", action="store_true", help="write the weights in float16, which halves the file")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config) if arguments.config else None
    recordings = arguments.recordings and Recordings(arguments.recordings, read_checkpoint(arguments.source, config).config.mel)
    checkpoint = convert(arguments.source, arguments.target, config, recordings, torch.float16 if arguments.half else None)
    n_parameters, mel = sum(tensor.numel() for tensor in checkpoint.weights.values()), checkpoint.config.mel
    print(f"{arguments.target}: {n_parameters:,} parameters, {mel.sample_rate} Hz, {mel.n_mels} bands, hop {mel.hop_length}")
    return 0


if __name__ == "__main__":
    run_command(main)
