"""Random low-pass filters, an augmentation: the network learns that a band which is empty in the mel stays empty beside loud ones.

Telephones, codecs and noise reduction make such recordings. A network that met few of them fills the empty bands with its noise.
"""

import torch

from common.errors import InputError

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


class LowPassed:
    """Recordings, of which a share of the segments go through `random_low_pass`.

    Args:
        recordings: a `datasets.Recordings` without mel files: a mel is to be computed from its segment.
        share: probability that a segment is filtered.
    """

    def __init__(self, recordings, share):
        self.recordings, self.share = recordings, share
        self.speakers = recordings.speakers
        self.highest_corner = recordings.mel_config.f_max / (recordings.mel_config.sample_rate / 2)

    def __len__(self):
        return len(self.recordings)

    def segment(self, index, n_frames, context, generator):
        """See `datasets.Recordings.segment`."""
        segment, mel = self.recordings.segment(index, n_frames, context, generator)
        own = torch.Generator().manual_seed(generator.initial_seed() ^ 1)  # the example's noise is that of a run without this
        if torch.rand((), generator=own) < self.share:
            segment = random_low_pass(segment, self.highest_corner, own)
        return segment, mel


def low_passed(recordings, share):
    """The recordings themselves if `share` is 0, otherwise `LowPassed`.

    Raises:
        InputError: the recordings have mel files, which would be those of segments that are not filtered.
    """
    if not share:
        return recordings
    if recordings.mel_paths:
        raise InputError(f"data.low_pass_share is {share:g}, but the training mels are read from files (wanted: 0)")
    return LowPassed(recordings, share)
