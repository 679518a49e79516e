"""Something that the metrics take for speech, for tests that need no corpus."""

import numpy as np
import torch


def synthetic_speech(seconds, sample_rate=16000, f0=120.0, seed=0):
    """Voiced syllables with moving formants, pauses between them, and a little noise.

    Returns:
        `[T]` float32 in [-1, 1].
    """
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    syllable = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None) ** 0.5
    waveform = np.zeros_like(time)
    pitch = f0 * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    formants = [500 + 200 * np.sin(2 * np.pi * 1.3 * time), 1500 + 400 * np.sin(2 * np.pi * 0.9 * time), 2600 + 0 * time]
    for harmonic in range(1, int(0.45 * sample_rate / (1.1 * f0))):
        gain = sum(np.exp(-(((harmonic * pitch - formant) / 200) ** 2)) for formant in formants) + 0.01
        waveform += gain / harmonic**0.5 * np.sin(harmonic * phase)
    waveform = waveform / np.abs(waveform).max() * syllable + 1e-3 * generator.standard_normal(len(time))
    return torch.from_numpy((0.5 * waveform).astype(np.float32))
