"""Draws what a training run had come to after how many hours: `python -m runs.plot_curve FOLDER... -o PICTURE`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import CommandParser, InputError, run_command
from common.files import save_atomically

CURVES = {
    "validation/pesq": "PESQ",
    "validation/stoi": "STOI",
    "validation/log_mel_l1": "log-mel L1",
    "validation/loss": "validation loss",
}
LONGEST_PAUSE = 5  # times the usual time between two points; a longer one was an interruption


def hours_at_steps(events):
    """The steps of a run's points in order, and the hours of training up to each, without interruptions."""
    seconds_at = {}
    for tag in events.Tags()["scalars"]:
        for point in events.Scalars(tag):
            seconds_at.setdefault(point.step, point.wall_time)
    steps = np.array(sorted(seconds_at))
    seconds = np.array([seconds_at[step] for step in steps])
    per_step = np.diff(seconds, prepend=seconds[0]) / np.diff(steps, prepend=0)
    usual = np.median(per_step)
    per_step[(per_step < 0) | (per_step > LONGEST_PAUSE * usual)] = usual
    per_step[0] = usual
    return steps, np.cumsum(per_step * np.diff(steps, prepend=0)) / 3600


def main():
    parser = CommandParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of TensorBoard files, one a run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, .png")
    arguments = parser.parse_args()
    figure = Figure(figsize=(3.2 * len(CURVES), 3), layout="constrained")
    axes = figure.subplots(1, len(CURVES))
    for folder in arguments.folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        if not events.Tags()["scalars"]:
            raise InputError(f"{folder}: no curves")
        steps, hours = hours_at_steps(events)
        for axis, tag in zip(axes, CURVES):
            points = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
            axis.plot(np.interp([p.step for p in points], steps, hours), [p.value for p in points], ".-", label=folder.name)
    for axis, label in zip(axes, CURVES.values()):
        axis.set_xlabel("hours of training")
        axis.set_title(label)
        axis.grid(alpha=0.3)
    if len(arguments.folders) > 1:
        axes[-1].legend(fontsize=8)
    save_atomically(lambda temporary: figure.savefig(temporary, dpi=100, format="png"), arguments.output)
    return 0


if __name__ == "__main__":
    run_command(main)
