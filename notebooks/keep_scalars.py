"""Copies the curves of a training run to one small TensorBoard file: `python notebooks/keep_scalars.py LOGDIR TARGET`.

Audio, pictures and text, which are most of a run's files, stay behind, and of each curve at most so many points are kept.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

MOST_POINTS = 250


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of a run's TensorBoard files")
    parser.add_argument("target", type=Path, help="folder for the copy; must not exist, or be empty")
    arguments = parser.parse_args()
    events = EventAccumulator(str(arguments.source), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    if not tags or (arguments.target.is_dir() and any(arguments.target.iterdir())):
        wrong = f"{arguments.target}: not empty" if tags else f"{arguments.source}: no curves"
        print(f"error: {wrong}", file=sys.stderr)
        return 2
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
    sys.exit(main())
