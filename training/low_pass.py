"""Random low-pass filters, an augmentation: the network learns that a band which is empty in the mel stays empty beside loud ones.

Telephones, codecs and noise reduction make such recordings. A network that met few of them fills the empty bands with its noise.
"""

import torch

LOWEST_CORNER = 0.25  # of the highest
SLOPE = 0.05  # the gain falls from 1 at (1 - SLOPE) * corner to 0 at the corner


def low_pass(waveform, corner):
    """Removes what is above a frequency.

    Args:
        waveform: `[T]`.
        corner: the frequency, relative to half the sample rate.

    Returns:
        `[T]`.
    """
    spectrum = torch.fft.rfft(waveform)
    frequencies = torch.linspace(0, 1, len(spectrum))
    gain = ((corner - frequencies) / (SLOPE * corner)).clamp(0, 1)
    return torch.fft.irfft(spectrum * gain, n=len(waveform))


def random_low_pass(waveform, highest_corner, generator):
    """Removes what is above a random frequency, uniform between a quarter of `highest_corner` and the whole; see `low_pass`."""
    corner = torch.empty(()).uniform_(LOWEST_CORNER * highest_corner, highest_corner, generator=generator)
    return low_pass(waveform, corner)
