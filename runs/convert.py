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


def main(argv=None):
    parser = CommandParser(prog="python -m runs.convert", description=__doc__)
    parser.add_argument("source", metavar="IN", help="training state, released weights, or a public WaveGrad's .pt")
    parser.add_argument("target", metavar="OUT", help="file to write, .safetensors")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with")
    parser.add_argument("-r", "--recordings", help="filelist of training recordings, to record the statistics of their mels")
    parser.add_argument("--half", action="store_true", help="write the weights in float16, which halves the file")
    arguments = parser.parse_args(argv)
    source, target = arguments.source, arguments.target
    if Path(target).suffix.lower() != ".safetensors":
        raise InputError(f"{target}: released weights are a .safetensors file, found '{Path(target).suffix}'")
    check_not_input(target, [source])
    checkpoint = read_checkpoint(source, load_config(arguments.config) if arguments.config else None)
    network, mel, statistics = build_network(checkpoint, source), checkpoint.config.mel, checkpoint.mel_statistics
    if arguments.recordings:
        statistics = statistics_of_recordings(Recordings(arguments.recordings, mel), LogMelSpectrogram(mel))
    save_weights(network, checkpoint.config, target, statistics, torch.float16 if arguments.half else None, checkpoint.starts)
    n_parameters = sum(tensor.numel() for tensor in checkpoint.weights.values())
    print(f"{target}: {n_parameters:,} parameters, {mel.sample_rate} Hz, {mel.n_mels} bands, hop {mel.hop_length}")
    return 0


if __name__ == "__main__":
    run_command(main)
