"""Recordings of several packages as folders of speakers at 22,050 Hz; `runs/get_voices.sh` calls this."""

import argparse
from pathlib import Path

import av
import numpy as np
import soundfile
import torch

from common.audio import Conversions, read_audio
from common.resampling import resample

SAMPLE_RATE = 22050
G722_RATE = 16000
SECONDS = 6  # prompts are joined to recordings of at least so long


def read_g722(path):
    """A file of G.722, `[T]` 16-bit integers at `G722_RATE`."""
    with av.open(str(path), format="g722") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def joined(waveforms, n_samples):
    """Joins waveforms, in their order, to ones of at least `n_samples`; what remains at the end is left out."""
    waiting, length = [], 0
    for waveform in waveforms:
        waiting.append(waveform)
        length += len(waveform)
        if length >= n_samples:
            yield torch.cat(waiting)
            waiting, length = [], 0


def prompts(folder):
    """The spoken prompts of an unpacked asterisk-core-sounds package, joined, at `SAMPLE_RATE`."""
    paths = sorted(path for path in folder.rglob("*.g722") if path.parent.name != "silence" and path.stat().st_size)
    waveforms = (torch.from_numpy(read_g722(path).astype(np.float32) / 2**15) for path in paths)
    for waveform in joined(waveforms, SECONDS * G722_RATE):
        yield resample(waveform, G722_RATE, SAMPLE_RATE)


def recordings(folder):
    for path in sorted(folder.rglob("*.wav")):
        yield read_audio(path, SAMPLE_RATE, Conversions(resample=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="an unpacked package: .wav files, or .g722 prompts")
    parser.add_argument("output", type=Path, help="the speaker's folder; must not exist")
    arguments = parser.parse_args()
    waveforms = prompts(arguments.source) if next(arguments.source.rglob("*.g722"), None) else recordings(arguments.source)
    arguments.output.mkdir(parents=True)
    for number, waveform in enumerate(waveforms, 1):
        path = arguments.output / f"{arguments.output.name.removesuffix('.tmp')}-{number:03}.flac"
        soundfile.write(path, waveform.clamp(-1, 1).numpy(), SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
