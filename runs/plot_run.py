"""Draws the curves of a training run into a picture, for a model card: `python -m runs.plot_run LOGDIR -o PICTURE`."""

from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import CommandParser, InputError, run_command
from common.files import save_atomically

IN_ONE_PANEL = ("validation_loss_by_noise_level/",)
LEFT_OUT = ("speed/", "validation_loss_by_speaker/", "train/skipped_updates")


def panels_of(events):
    """Title of a panel -> name of a curve -> its points."""
    panels = defaultdict(dict)
    for tag in events.Tags()["scalars"]:
        if not tag.startswith(LEFT_OUT):
            group = next((prefix for prefix in IN_ONE_PANEL if tag.startswith(prefix)), "")
            panels[group.rstrip("/").replace("_", " ") or tag][tag.removeprefix(group)] = events.Scalars(tag)
    return panels


def main():
    parser = CommandParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, .png")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        raise InputError(f"{arguments.folder}: no such folder")
    panels = panels_of(EventAccumulator(str(arguments.folder), size_guidance={"scalars": 0}).Reload())
    if not panels:
        raise InputError(f"{arguments.folder}: no curves (expected the folder of a training run)")
    n_rows = -(-len(panels) // 4)
    figure = Figure(figsize=(14, 2.6 * n_rows), layout="constrained")
    for axis, (title, curves) in zip(figure.subplots(n_rows, 4, squeeze=False).flat, panels.items()):
        for name, points in curves.items():
            axis.plot([point.step for point in points], [point.value for point in points], label=name, linewidth=1)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend(fontsize=7)
    save_atomically(lambda temporary: figure.savefig(temporary, dpi=100, format="png"), arguments.output)
    return 0


if __name__ == "__main__":
    run_command(main)
