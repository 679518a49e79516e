"""Waveforms at 16 kHz, where most metrics of speech are defined."""

from torchaudio.functional import resample

SPEECH_SAMPLE_RATE = 16000  # Hz


def at_speech_rate(waveform, sample_rate):
    """A waveform `[T]` resampled to 16 kHz."""
    return waveform if sample_rate == SPEECH_SAMPLE_RATE else resample(waveform, sample_rate, SPEECH_SAMPLE_RATE)
