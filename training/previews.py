"""Validation recordings resynthesised by the network as it is now, heard, seen and measured."""

from pathlib import Path
from typing import NamedTuple

import torch

from benchmarking.metrics import log_mel_l1
from benchmarking.metrics.spectral import multi_resolution_stft
from common.device import synchronized_time
from extensions.registry import make_pipeline
from model.noise_schedule import NoiseSchedule
from training import distributed

DEFAULT_SCHEDULE = Path(__file__).parent.parent / "schedules" / "wg-6.json"
LONGEST = 10.0  # seconds of a recording that are resynthesised


def preview_pipelines(trainer):
    """Name -> `Pipeline`: six steps of algorithm 2 by the network as it is and as it is averaged, and what the objective trains for.

    The last one is judged, so that one sees it in the figures.
    """
    schedule, trained = NoiseSchedule.load(DEFAULT_SCHEDULE), trainer.objective.preview(trainer.ema.module)
    networks = {"six_steps": trainer.network, "six_steps_averaged": trainer.ema.module}
    pipelines = {name: make_pipeline(network, trainer.config, schedule, "ancestral") for name, network in networks.items()}
    return pipelines | ({"trained": trained} if trained else {})


class Preview(NamedTuple):
    """A recording `[T]`, its resyntheses by the name of their pipeline, and of the last of these its mel `[n_mels, frames]` and figures.

    The recording is known by its number in the filelist, and by its file's name without the suffix.
    """

    index: int
    name: str
    recording: torch.Tensor
    results: dict
    recording_mel: torch.Tensor
    result_mel: torch.Tensor
    figures: dict


@torch.no_grad()
def make_previews(trainer, pipelines, count):
    """Resynthesises the first `count` validation recordings, shared among the processes, from the same noise every time.

    Args:
        pipelines: from `preview_pipelines`.

    Returns:
        list of `Preview`, on every process.
    """
    recordings = trainer.data.validation
    mine = range(trainer.rank, min(count, len(recordings)), trainer.world_size)
    # No search for the fastest convolutions, which training makes once: here each length would have its own.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        previews = [_preview(trainer, pipelines, index) for index in mine]
    parts = distributed.collect(previews)
    return sorted((preview for part in parts for preview in part), key=lambda preview: preview.index)


def _preview(trainer, pipelines, index):
    sample_rate, hop_length = trainer.config.mel.sample_rate, trainer.config.mel.hop_length
    longest = int(LONGEST * sample_rate) // hop_length * hop_length
    recording = trainer.data.validation[index][:longest]
    mel = trainer.mel_transform(recording.to(trainer.device))
    given = trainer.data.validation.mel(index)
    if given is not None:
        mel = given[:, : mel.shape[1]].to(trainer.device)
    results = {}
    with trainer.autocast():
        for name, pipeline in pipelines.items():
            pipeline.network.eval()
            start = synchronized_time(trainer.device)
            results[name] = pipeline(mel[None], torch.Generator().manual_seed(index))[0].float()
            seconds = synchronized_time(trainer.device) - start
    result_mel = trainer.mel_transform(results[name]).cpu()
    results, mel = {name: result.cpu() for name, result in results.items()}, mel.cpu()
    figures = {
        "log_mel_l1": log_mel_l1(mel, result_mel),
        "m_stft": multi_resolution_stft(recording, results[name]),
        "real_time_factor": seconds * sample_rate / len(recording),
    }
    return Preview(index, trainer.data.validation.paths[index].stem, recording, results, mel, result_mel, figures)
