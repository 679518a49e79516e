"""Band-limited resampling of a part of a signal, which gives the samples that resampling the whole gives."""

import math

import soxr
import torch

MARGIN = 1024  # samples on either side that the filter of soxr's highest quality may reach


def resampled_length(n_samples, old_rate, new_rate):
    """Samples at the new rate; a last one that is not complete is left out."""
    return n_samples * new_rate // old_rate


def source_range(start, stop, old_rate, new_rate):
    """What to read at the old rate for samples `start` to `stop` at the new rate.

    Returns:
        first and last + 1 sample to read, which may lie beyond the signal's end, and the place of `start` in what they give.
    """
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor  # so many samples of each last equally long
    margin = math.ceil(MARGIN / old)
    first = max(start // new - margin, 0)
    return first * old, (math.ceil(stop / new) + margin) * old, start - first * new


def resample(audio, old_rate, new_rate):
    """`[T]` float32 at another rate (soxr, highest quality)."""
    return torch.from_numpy(soxr.resample(audio.numpy(), old_rate, new_rate, "VHQ"))
