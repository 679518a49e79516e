"""What a run would be like: checked and measured, without touching its folder."""

import math
from datetime import timedelta
from statistics import fmean

import torch

from common.device import synchronized_time
from common.errors import InputError
from common.memory import peak_resident_bytes
from training.trainer import N_VALIDATION_EXAMPLES

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
    training = trainer.config.training
    recordings = trainer.data.training
    hours = sum(recordings.n_samples) / trainer.config.mel.sample_rate / 3600
    lines, forecast = [], 0.0
    for stage in trainer.stages:
        trainer.step = stage.first
        batch = next(trainer.batches())
        lines += _lines_of_stage(trainer, stage)
        kinds = trainer.objective.kinds(stage)
        for kind, steps in kinds.items():
            seconds, result = _measured(trainer, batch, steps[: 1 if kind == "step" else N_MEASURED])
            lines.append(_line(kind, seconds, result.figures))
            forecast += seconds * len(steps)
    start = synchronized_time(trainer.device)
    loss, _ = trainer.evaluate()
    lines.append(_line("validation", synchronized_time(trainer.device) - start, {"loss": loss}))
    n_parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    return [
        f"{n_parameters:,} parameters, {training.precision}, {trainer.world_size} processes on {trainer.device.type}",
        f"{len(recordings)} recordings, {hours:.2f} hours; {N_VALIDATION_EXAMPLES} validation segments from "
        f"{len(trainer.data.validation)} recordings",
        *lines,
        f"forecast: {timedelta(seconds=round(forecast))} for {training.n_steps} steps, beside validation",
        f"peak memory of a process: {_peak_memory(trainer.device)}",
    ]


def _lines_of_stage(trainer, stage):
    training, mel = stage.config.training, trainer.config.mel
    segment_seconds = stage.config.data.segment_frames * mel.hop_length / mel.sample_rate
    steps_per_epoch = len(trainer.data.training) / training.batch_size
    lines = [
        f"batch of {training.batch_size} segments of {segment_seconds:.3f} s, {_portion_size(trainer, training)} at once in each process",
        f"{steps_per_epoch:.1f} steps per epoch (one segment of each recording), "
        f"{training.n_steps} steps are {training.n_steps / steps_per_epoch:.1f} epochs",
    ]
    if len(trainer.stages) > 1:
        lines.insert(0, f"stage {stage.number} of {len(trainer.stages)}:")
    return lines


def _line(kind, seconds, figures):
    text = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
    if not all(map(math.isfinite, figures.values())):
        raise InputError(f"{kind}: expected a finite loss, got {text}; look at the recordings and training.precision")
    return f"measured {kind}: {seconds:.3f} s, {text}"


def _portion_size(trainer, training):
    """Number of examples that a process has in memory at once."""
    share = -(-training.batch_size // trainer.world_size)
    return min(training.micro_batch_size or share, share)


def _measured(trainer, batch, steps):
    """Mean seconds of steps as the run makes them at these numbers, after one to warm up, and the result of the last."""
    seconds = []
    for step in [steps[0], *steps]:
        trainer.step = step
        start = synchronized_time(trainer.device)
        result = trainer.train_step(batch)
        seconds.append(synchronized_time(trainer.device) - start)
    return fmean(seconds[1:]), result


def _peak_memory(device):
    """What this process held at most, in words: the device's allocations, or the resident set."""
    n_bytes = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_resident_bytes()
    return f"{n_bytes / GIBIBYTE:.2f} GiB" if n_bytes else "unknown on this system"
