"""How close a waveform is to a recording."""

import warnings

import numpy as np
from pesq import PesqError, pesq
from pystoi import stoi
from torchaudio.functional import resample

PESQ_SAMPLE_RATE = 16000  # wideband PESQ is defined there


def pesq_wideband(reference, degraded, sample_rate):
    """PESQ, wideband (ITU-T P.862.2), from 1.04 (bad) to 4.64; NaN where PESQ finds no speech.

    Args:
        reference, degraded: `[T]` tensors.
    """
    if sample_rate != PESQ_SAMPLE_RATE:
        reference, degraded = (resample(x, sample_rate, PESQ_SAMPLE_RATE) for x in (reference, degraded))
    result = pesq(
        PESQ_SAMPLE_RATE, reference.numpy(), degraded.numpy(), "wb", on_error=PesqError.RETURN_VALUES
    )
    return float(result) if result > 0 else float("nan")


def short_time_intelligibility(reference, degraded, sample_rate):
    """STOI (Taal et al., 2011), up to 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(stoi(reference.numpy(), degraded.numpy(), sample_rate))


def log_mel_l1(reference_mel, degraded_mel):
    """Mean absolute difference of two log-mel spectrograms `[n_mels, frames]`, in their own unit."""
    return float(np.abs(reference_mel.numpy() - degraded_mel.numpy()).mean())
