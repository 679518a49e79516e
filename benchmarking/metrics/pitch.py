"""Errors of voicing and pitch.

Tracking the pitch is slow, and each system is compared with the same recording: the last results are cached.
"""

import functools

import librosa
import numpy as np
import torch
from torchaudio.transforms import Spectrogram

from benchmarking.metrics.speech_rate import SPEECH_SAMPLE_RATE, at_speech_rate

N_CACHED = 32  # waveforms

F0_MIN, F0_MAX = 60.0, 500.0  # Hz, speech
F0_HOP = 0.01  # seconds
GROSS_PITCH_ERROR = 0.2  # Chu & Alwan, 2009

# What follows is as in Morrison et al., 2022 (CARGAN), and in the evaluation of Vocos.
CREPE_F0_MIN, CREPE_F0_MAX = 50.0, 550.0  # Hz
CREPE_BATCH = 64  # frames at a time: bounds the memory
SILENCE = -60.0  # dB, of the A-weighted spectrum's mean over frequencies
VOICED = 0.21  # periodicity from which on a frame is voiced


def _cached(function):
    """A function of a waveform `[T]` and a sample rate that caches its last results by the content of the waveform."""

    @functools.lru_cache(maxsize=N_CACHED)
    def of_content(content, sample_rate):
        return function(torch.frombuffer(bytearray(content), dtype=torch.float32), sample_rate)

    return lambda waveform, sample_rate: of_content(waveform.numpy().tobytes(), sample_rate)


@_cached
def _pitch(waveform, sample_rate):
    """F0 in Hz every 10 ms, 0 where unvoiced (pYIN, Mauch & Dixon, 2014); no frames where it is shorter than a window."""
    frame_length = 2 ** int(np.ceil(np.log2(3 * sample_rate / F0_MIN)))  # three periods of the lowest pitch
    if len(waveform) < frame_length:
        return np.zeros(0)
    f0, voiced, _ = librosa.pyin(
        waveform.numpy(),
        fmin=F0_MIN,
        fmax=F0_MAX,
        sr=sample_rate,
        frame_length=frame_length,
        hop_length=round(F0_HOP * sample_rate),
        resolution=0.2,
    )
    return np.where(voiced, np.nan_to_num(f0), 0.0)


def pitch_frame_error(reference_f0, degraded_f0):
    """Share of frames voiced in one and not in the other, or off by more than 20 % (Chu & Alwan, 2009).

    Args:
        reference_f0, degraded_f0: `[frames]` arrays in Hz, 0 where unvoiced.
    """
    voiced = reference_f0 > 0
    voicing_errors = voiced != (degraded_f0 > 0)
    pitch_errors = voiced & ~voicing_errors & (np.abs(degraded_f0 - reference_f0) > GROSS_PITCH_ERROR * reference_f0)
    return float((voicing_errors | pitch_errors).mean())


def f0_frame_error(reference, degraded, sample_rate):
    """F0 frame error of two waveforms, from 0 to 1; see `pitch_frame_error`. NaN where they are shorter than its window, 50 to 100 ms."""
    a, b = _pitch(reference, sample_rate), _pitch(degraded, sample_rate)
    return pitch_frame_error(a, b) if len(a) else float("nan")


@_cached
def _periodicity(waveform, sample_rate):
    """Periodicity every 10 ms, 0 to 1 (CREPE "full", Kim et al., 2018); 0 where it is silent, no frames where it is too short."""
    import torchcrepe  # slow to import, and training does not need it

    window, hop = torchcrepe.WINDOW_SIZE, SPEECH_SAMPLE_RATE // 100
    waveform = at_speech_rate(waveform, sample_rate)
    if len(waveform) < window:
        return np.zeros(0)
    with torch.inference_mode():
        batches = torchcrepe.preprocess(waveform[None], SPEECH_SAMPLE_RATE, hop, CREPE_BATCH, pad=False)
        probabilities = torch.cat([torchcrepe.infer(frames, "full") for frames in batches])
        _, periodicity = torchcrepe.postprocess(probabilities.T[None], CREPE_F0_MIN, CREPE_F0_MAX, return_periodicity=True)
        spectrum = Spectrogram(window, hop_length=hop, center=False)(waveform)
    with np.errstate(divide="ignore"):  # the logarithm of 0 Hz
        weighted = librosa.perceptual_weighting(spectrum.numpy(), librosa.fft_frequencies(sr=SPEECH_SAMPLE_RATE, n_fft=window))
    is_silent = weighted.mean(0) - torchcrepe.loudness.REF_DB < SILENCE
    return np.where(is_silent, 0.0, periodicity[0].numpy())


def periodicity_error(reference, degraded, sample_rate):
    """Periodicity RMSE of two waveforms (Morrison et al., 2022), 0 (best) to 1.

    NaN where the reference is shorter than 64 ms or nowhere louder than -60 dB.
    """
    a, b = _periodicity(reference, sample_rate), _periodicity(degraded, sample_rate)
    return float(np.sqrt(((a - b) ** 2).mean())) if a.any() else float("nan")


def voicing_f1(reference_periodicity, degraded_periodicity):
    """F1 score of the decision that a frame is voiced, 0 to 1 (best); NaN where no frame of the reference is.

    Args:
        reference_periodicity, degraded_periodicity: `[frames]` arrays.
    """
    reference, degraded = reference_periodicity >= VOICED, degraded_periodicity >= VOICED
    if not reference.any():
        return float("nan")
    return float(2 * (reference & degraded).sum() / (reference.sum() + degraded.sum()))


def voiced_unvoiced_f1(reference, degraded, sample_rate):
    """V/UV F1 of two waveforms (Morrison et al., 2022); see `voicing_f1`."""
    return voicing_f1(_periodicity(reference, sample_rate), _periodicity(degraded, sample_rate))
