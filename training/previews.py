"""Validation recordings resynthesised by the network as it is now, heard, seen and measured."""

import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import torch

from common.device import synchronized_time
from extensions.registry import make_pipeline
from metrics import log_mel_l1, pesq_wideband, stoi
from model.noise_schedule import NoiseSchedule
from training import distributed

DEFAULT_SCHEDULE = Path(__file__).parent.parent / "schedules" / "wg-6.json"
LONGEST = 10.0  # seconds of a recording that are resynthesised
SHORTEST_JUDGED = 0.5  # seconds; STOI compares stretches of 0.384 s, and PESQ refuses less than 0.25 s


def preview_pipeline(trainer):
    """What InferGrad trains for in the last stage that has it, so that one sees it in the figures; else six steps of algorithm 2."""
    trained = [loss for loss in trainer.infer_grad_losses_of_stages.values() if loss]
    if trained:
        return trained[-1].pipeline(trainer.ema.module, trained[-1].schedules[0])
    return make_pipeline(trainer.ema.module, trainer.config, NoiseSchedule.load(DEFAULT_SCHEDULE), "ancestral")


class Preview(NamedTuple):
    """A recording and its resynthesis `[T]`, their mels `[n_mels, frames]`, and figures by name.

    The recording is known by its number in the filelist, and by its file's name without the suffix.
    """

    index: int
    name: str
    recording: torch.Tensor
    result: torch.Tensor
    recording_mel: torch.Tensor
    result_mel: torch.Tensor
    figures: dict


@torch.no_grad()
def make_previews(trainer, pipeline, count):
    """Resynthesises the first `count` validation recordings, shared among the processes, from the same noise every time.

    Args:
        pipeline: the `Pipeline` of the averaged network.

    Returns:
        list of `Preview`, on every process.
    """
    recordings = trainer.validation_examples.recordings
    mine = range(trainer.rank, min(count, len(recordings)), trainer.world_size)
    with _convolutions_of_any_length():
        previews = [_preview(trainer, pipeline, index) for index in mine]
    parts = distributed.collect(previews)
    return sorted((preview for part in parts for preview in part), key=lambda preview: preview.index)


def mean_figures(previews):
    """Means of the previews' figures by name; a figure that no preview has (PESQ of silence is NaN, say) is left out."""
    values = {}
    for preview in previews:
        for name, value in preview.figures.items():
            if not math.isnan(value):
                values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def preview_names(previews):
    """What to call previews: by their recordings, and by their numbers too where names come twice, in several folders say."""
    names = [preview.name for preview in previews]
    return [name if names.count(name) == 1 else f"{name} {preview.index}" for name, preview in zip(names, previews)]


def _preview(trainer, pipeline, index):
    sample_rate, hop_length = trainer.config.mel.sample_rate, trainer.config.mel.hop_length
    longest = int(LONGEST * sample_rate) // hop_length * hop_length
    recording = trainer.validation_examples.recordings[index][:longest]
    mel = trainer.mel_transform(recording.to(trainer.device))
    given = trainer.validation_examples.recordings.mel(index)
    if given is not None:
        mel = given[:, : mel.shape[1]].to(trainer.device)
    network = trainer.ema.module.eval()
    noise_level = torch.ones(1, device=trainer.device)
    with trainer.autocast():
        network(recording[None].to(trainer.device), mel[None], noise_level)  # warms up
        start = synchronized_time(trainer.device)
        generator = torch.Generator().manual_seed(index)
        result = pipeline(mel[None], generator)[0].float()
        seconds = synchronized_time(trainer.device) - start
    result_mel = trainer.mel_transform(result)
    recording, result, mel, result_mel = (x.cpu() for x in (recording, result, mel, result_mel))
    figures = {"log_mel_l1": log_mel_l1(mel, result_mel), "real_time_factor": seconds * sample_rate / len(recording)}
    if len(recording) >= SHORTEST_JUDGED * sample_rate:
        figures["pesq"] = pesq_wideband(recording, result, sample_rate)
        figures["stoi"] = stoi(recording, result, sample_rate)
    name = trainer.validation_examples.recordings.paths[index].stem
    return Preview(index, name, recording, result, mel, result_mel, figures)


@contextlib.contextmanager
def _convolutions_of_any_length():
    """No search for the fastest convolutions, which training makes once: here each length would have its own."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
