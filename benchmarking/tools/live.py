"""`benchmark.py rtf --streaming`: networks that receive the frames of a mel at a microphone's pace.

Nothing waits: the time that the frames would take to arrive is added to the time that is measured. Playing begins when as much as a piece
of frames is there, and stops where a piece is not done before the one before it has been played. So a machine that is fast enough never
stops.
"""

from typing import NamedTuple

import numpy as np

from benchmarking.tools.cases import case_schedule, split_case
from benchmarking.tools.excerpts import load_excerpts
from benchmarking.tools.tables import markdown_table, number
from benchmarking.tools.timing import machine, seconds_per_frame
from benchmarking.tools.variants import COMPILED, PLAIN, dtype_of, network_of
from common.device import synchronized_time
from common.errors import InputError
from model.mel.transform import LogMelSpectrogram
from vocoder import Vocoder

HEADINGS = [
    *("network, variant, steps", "frames in a piece", "latency (ms)", "first audio after (ms)", "longest gap (ms)"),
    "computing, share of the audio",
]


class Heard(NamedTuple):
    """What a listener hears of an utterance, in seconds.

    Args:
        first: from the beginning of the first frame to the first sound.
        gap: the longest that playing stops.
        computing: of all pieces together.
    """

    first: float
    gap: float
    computing: float


def listen(push, mel, piece, mel_transform, clock):
    """Pushes a mel `[n_mels, frames]` into a stream, `piece` frames at a time, each when its last frame has arrived.

    Args:
        push: called as `push(frames, last)`, returns a waveform.
        mel_transform: the `LogMelSpectrogram` that makes the mel: a frame is known when its window has passed.
        clock: called without arguments, returns seconds.

    Returns:
        a `Heard`.
    """
    config, window = mel_transform.config, mel_transform.context[1]
    n_arrived, n_ready, first = 0, 0, None
    done = gap = computing = played = 0.0  # done: when the last piece was; played: until when there is something to play
    for frames in mel.split(piece, dim=1):
        n_arrived += frames.shape[1]
        start = clock()
        waveform = push(frames, n_arrived == mel.shape[1])
        seconds = clock() - start
        computing += seconds
        done = max(done, (n_arrived * config.hop_length + window) / config.sample_rate) + seconds
        n_ready += len(waveform)
        if first is None:
            if n_ready >= min(piece, mel.shape[1]) * config.hop_length:
                first, played = done, done + n_ready / config.sample_rate
        elif len(waveform):
            gap = max(gap, done - played)
            played = max(played, done) + len(waveform) / config.sample_rate
    return Heard(first, gap, computing)


def _vocoder(text, arguments, device):
    """The `Vocoder` of a case."""
    if text.endswith(".onnx"):
        raise InputError(f"{text}: --streaming takes no graph of a whole synthesis")
    path, variant, steps, gla_grad = split_case(text)
    if variant in (PLAIN, COMPILED):
        raise InputError(f"{text}: --streaming takes no {variant} variant (wanted: a precision)")
    network, config = network_of(path, device)
    options = {"sampler": arguments.sampler, "gla_grad": gla_grad}
    return Vocoder(network, config.mel, case_schedule(steps), device, dtype_of(variant, device), **options)


def run_streaming(arguments, device):
    """Lets each case stream the same recordings, in pieces of each length; returns lines to show, and the same as JSON values."""
    results, durations = [], set()
    for text in dict.fromkeys(arguments.cases):
        vocoder = _vocoder(text, arguments, device)
        config = vocoder.mel_transform.config
        excerpts = load_excerpts(arguments.filelist, LogMelSpectrogram(config), arguments.recordings, arguments.seconds)
        duration = sum(excerpt.mel.shape[1] for excerpt in excerpts) * seconds_per_frame(config)
        durations.add(duration)
        for piece in arguments.streaming:
            streams = [vocoder.open_stream() for _ in range(arguments.repeats + 1) for _ in excerpts]
            heard = [
                listen(stream.push, excerpt.mel, piece, vocoder.mel_transform, lambda: synchronized_time(device))
                for stream, excerpt in zip(streams, excerpts * (arguments.repeats + 1))
            ][len(excerpts) :]  # the first round is the warm-up
            results.append(
                {
                    "case": text,
                    "piece_frames": piece,
                    "latency_seconds": streams[0].latency_seconds,
                    "first_audio_seconds": float(np.mean([one.first for one in heard])),
                    "longest_gap_seconds": max(one.gap for one in heard),
                    "computing_share": sum(one.computing for one in heard) / (duration * arguments.repeats),
                }
            )
    heading = f"{machine(device)}; {max(durations):.1f} s of audio, {arguments.repeats} times each"
    rows = [
        [
            *(result["case"], result["piece_frames"]),
            *(f"{1000 * result[key]:.0f}" for key in ("latency_seconds", "first_audio_seconds", "longest_gap_seconds")),
            number(result["computing_share"], 3),
        ]
        for result in results
    ]
    return [heading, "", markdown_table(HEADINGS, rows)], {"machine": heading, "results": results}
