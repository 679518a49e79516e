"""What a run would be like: checked and measured, without touching its folder."""

import math
import resource
import time
from datetime import timedelta

import torch

from model.errors import InputError
from training.explained import explained_out_of_memory
from training.trainer import N_VALIDATION_EXAMPLES

GIBIBYTE = 2**30


def dry_run(trainer):
    """Makes a first step to warm up and measures a second one, of each kind that the run has; and one validation.

    Returns:
        list of lines.

    Raises:
        InputError: the step does not fit into memory, or its loss is not finite.
        OSError: a recording cannot be read.
    """
    training, data = trainer.config.training, trainer.config.data
    recordings = trainer.examples.recordings
    hours = sum(recordings.n_samples) / trainer.config.mel.sample_rate / 3600
    batch = next(trainer.batches())
    measured, forecast = [], 0.0
    with explained_out_of_memory(training):
        for kind, steps in _kinds_of_step(training).items():
            seconds, loss = _measured_step(trainer, batch, steps[0])
            measured.append(_line(kind, seconds, loss))
            forecast += seconds * len(steps)
        start = time.perf_counter()
        loss, _ = trainer.evaluate()
        measured.append(_line("validation", time.perf_counter() - start, loss))
    n_parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    segment_seconds = data.segment_frames * trainer.config.mel.hop_length / trainer.config.mel.sample_rate
    steps_per_epoch = len(recordings) / training.batch_size
    return [
        f"{n_parameters:,} parameters, {training.precision}, {trainer.world_size} processes on {trainer.device.type}",
        f"{len(recordings)} recordings, {hours:.2f} hours; {N_VALIDATION_EXAMPLES} validation segments from "
        f"{len(trainer.validation_examples.recordings)} recordings",
        f"batch of {training.batch_size} segments of {segment_seconds:.3f} s, {_portions(trainer)} at once in each process",
        f"{steps_per_epoch:.1f} steps per epoch (one segment of each recording), "
        f"{training.n_steps} steps are {training.n_steps / steps_per_epoch:.1f} epochs",
        *measured,
        f"forecast: {timedelta(seconds=round(forecast))} for {training.n_steps} steps, beside validation",
        f"peak memory of a process: {_peak_memory(trainer.device) / GIBIBYTE:.2f} GiB",
    ]


def _line(kind, seconds, loss):
    if not math.isfinite(loss):
        raise InputError(f"{kind}: the loss is {loss} (wanted: a finite one; look at the recordings and training.precision)")
    return f"measured {kind}: {seconds:.3f} s, loss {loss:.4f}"


def _kinds_of_step(training):
    """What kinds of step the run has, and which are of which."""
    kinds = {}
    for step in range(training.n_steps):
        inference = training.infer_grad is not None and training.infer_grad.counts_at(step)
        kinds.setdefault("step with inference" if inference else "step", []).append(step)
    return kinds


def _measured_step(trainer, batch, step):
    """Seconds and loss of a step as the run makes it at `step`, after one to warm up."""
    for _ in range(2):
        trainer.step = step
        start = time.perf_counter()
        result = trainer.train_step(batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - start, result.loss


def _portions(trainer):
    share = -(-trainer.config.training.batch_size // trainer.world_size)
    return min(trainer.config.training.micro_batch_size or share, share)


def _peak_memory(device):
    """Bytes that this process held at most: the device's allocations, or the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KiB
