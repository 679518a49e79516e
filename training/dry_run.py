"""What a run would be like: checked and measured, without touching its folder."""

import math
import sys
from datetime import timedelta
from statistics import fmean

import torch

from common.device import synchronized_time
from common.errors import InputError
from training.trainer import N_VALIDATION_EXAMPLES

try:
    import resource
except ImportError:  # Windows
    resource = None

GIBIBYTE = 2**30
N_MEASURED = 8  # steps of a kind, where there are several kinds


def dry_run(trainer):
    """Measures steps of each kind that the run has, after one to warm up; and one validation.

    Steps of an objective with several kinds differ: the figure is the mean of the first few.

    Returns:
        list of lines.

    Raises:
        InputError: the step does not fit into memory, or its loss is not finite.
        OSError: a recording cannot be read.
    """
    training, recordings, device = trainer.config.training, trainer.data.training, trainer.device
    n_parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    hours = sum(recordings.n_samples) / trainer.config.mel.sample_rate / 3600
    lines = [
        f"{n_parameters:,} parameters, {training.precision}, {trainer.world_size} processes on {device.type}",
        f"{len(recordings)} recordings, {hours:.2f} hours; {N_VALIDATION_EXAMPLES} validation segments from "
        f"{len(trainer.data.validation)} recordings",
    ]
    forecast = 0.0
    for stage in trainer.stages:
        lines.append(_about(trainer, stage))
        trainer.step = stage.first
        batch = next(trainer.batches())
        for kind, steps in trainer.objective.kinds(stage).items():
            seconds, result = _measured(trainer, batch, steps[: 1 if kind == "step" else N_MEASURED])
            lines.append(_line(kind, seconds, result.figures))
            forecast += seconds * len(steps)
    start = synchronized_time(device)
    loss, _ = trainer.evaluate()
    lines.append(_line("validation", synchronized_time(device) - start, {"loss": loss}))
    lines.append(f"forecast: {timedelta(seconds=round(forecast))} for {training.n_steps} steps, beside validation")
    if device.type == "cuda" or resource:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS
        peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        lines.append(f"peak memory of a process: {peak / GIBIBYTE:.2f} GiB")
    return lines


def _about(trainer, stage):
    """What a stage's steps are, in words."""
    training, mel = stage.config.training, trainer.config.mel
    segment_seconds = stage.config.data.segment_frames * mel.hop_length / mel.sample_rate
    share = -(-training.batch_size // trainer.world_size)
    at_once = min(training.micro_batch_size or share, share)  # examples that a process has in memory
    n_epochs = training.n_steps * training.batch_size / len(trainer.data.training)
    return (
        f"stage {stage.number} of {len(trainer.stages)}: {training.n_steps} steps, {n_epochs:.1f} epochs of one segment of each recording; "
        f"{training.batch_size} segments of {segment_seconds:.3f} s in a step, {at_once} at once in each process"
    )


def _line(kind, seconds, figures):
    text = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
    if not all(map(math.isfinite, figures.values())):
        raise InputError(f"{kind}: expected a finite loss, got {text}; look at the recordings and training.precision")
    return f"measured {kind}: {seconds:.3f} s, {text}"


def _measured(trainer, batch, steps):
    """Mean seconds of steps as the run makes them at these numbers, after one to warm up, and the result of the last."""
    seconds = []
    for step in [steps[0], *steps]:
        trainer.step = step
        start = synchronized_time(trainer.device)
        result = trainer.train_step(batch)
        seconds.append(synchronized_time(trainer.device) - start)
    return fmean(seconds[1:]), result
