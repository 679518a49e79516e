"""Writes any checkpoint that can be read as released weights: `python -m runs.convert IN OUT.safetensors`."""

import torch

from common.errors import CommandParser, run_command
from datasets import Recordings
from model.checkpoint import convert, read_checkpoint
from model.config import load_config


def main(argv=None):
    parser = CommandParser(prog="python -m runs.convert", description=__doc__)
    parser.add_argument("source", metavar="IN", help="training state, released weights, or a public WaveGrad's .pt")
    parser.add_argument("target", metavar="OUT", help="file to write, .safetensors")
    parser.add_argument("-c", "--config", help="configuration that the checkpoint must agree with")
    parser.add_argument("-r", "--recordings", help="filelist of training recordings, to record the statistics of their mels")
    parser.add_argument("--half", action="store_true", help="write the weights in float16, which halves the file")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config) if arguments.config else None
    recordings = None
    if arguments.recordings:
        recordings = Recordings(arguments.recordings, read_checkpoint(arguments.source, config).config.mel)
    checkpoint = convert(arguments.source, arguments.target, config, recordings, torch.float16 if arguments.half else None)
    n_parameters, mel = sum(tensor.numel() for tensor in checkpoint.weights.values()), checkpoint.config.mel
    print(f"{arguments.target}: {n_parameters:,} parameters, {mel.sample_rate} Hz, {mel.n_mels} bands, hop {mel.hop_length}")
    return 0


if __name__ == "__main__":
    run_command(main)
