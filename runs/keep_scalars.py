"""Copies the curves of a training run to one small TensorBoard file: `python -m runs.keep_scalars LOGDIR TARGET`.

Audio, pictures and text, which are most of a run's files, stay behind, and of each curve at most so many points are kept.
"""

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from common.errors import CommandParser, InputError, run_command

MOST_POINTS = 250


def main():
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of a run's TensorBoard files")
    parser.add_argument("target", type=Path, help="folder for the copy; must not exist, or be empty")
    arguments = parser.parse_args()
    if not arguments.source.is_dir():
        raise InputError(f"{arguments.source}: no such folder")
    events = EventAccumulator(str(arguments.source), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    if not tags:
        raise InputError(f"{arguments.source}: no curves")
    if arguments.target.exists() and any(arguments.target.iterdir()):
        raise InputError(f"{arguments.target}: not empty")
    with SummaryWriter(arguments.target) as writer:
        for tag in tags:
            points = events.Scalars(tag)
            kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().astype(int))
            for k in kept:
                writer.add_scalar(tag, points[k].value, points[k].step, points[k].wall_time)
    [written] = arguments.target.iterdir()
    written.rename(arguments.target / "events.out.tfevents.curves")  # without the machine's name
    return 0


if __name__ == "__main__":
    run_command(main)
