"""SpecGrad (Koizumi et al., 2022): noise with the spectrum of the speech; `prior.kind` "spectral" in the configuration, off by default.

SpecGrad filters the noise so that it has the spectral envelope of the speech, and divides the loss by it. Here this is a change of
variable, as in `extensions.priorgrad`: network, loss and reverse process are WaveGrad's own for the waveform that the inverse filter
whitens. The filter multiplies the short-time spectrum by the envelope.

The envelope is the mel itself, interpolated over frequency, with a floor. SpecGrad smooths it. Where the bands are narrow the mel shows the
harmonics of a voice, and then the noise does so, too.
"""

import torch
import torch.nn.functional as F
from torch import nn

from extensions.griffin_lim.spectrum import TINY, MelSpectrum

LIMIT = 4.0  # of a whitened waveform: beyond is what the mel does not show, such as a tone above its bands, and the network explodes there


class SpectralPrior(nn.Module):
    """The prior, with the interface of `model.pipeline.StandardNormalPrior`.

    Args:
        config: a `model.config.SpectralPriorConfig`.
        mel_config: the `MelConfig` of the mels.
        spectrum: `MelSpectrum` or a subclass.

    Raises:
        InputError: `MelSpectrum` refuses the mel.
    """

    def __init__(self, config, mel_config, spectrum=MelSpectrum):
        super().__init__()
        self.config, self.hop_length = config, mel_config.hop_length
        self.spectrum = spectrum(mel_config, "prior.kind 'spectral'")
        self.context_frames = self.margin_frames = 2 * -(-mel_config.win_length // (2 * mel_config.hop_length))
        filters = self.spectrum.filters
        widths, lines = filters.sum(1, keepdim=True), torch.arange(filters.shape[1], dtype=torch.float32, device="cpu")
        self.has_lines = (widths[:, 0] > 0).tolist()  # narrow bands may cover no line
        centres = (filters @ lines)[self.has_lines] / widths[self.has_lines, 0]
        self.register_buffer("interpolation", _linear_interpolation(centres, lines))
        # Of a band's mel to its loudness, and to that of white noise of unit variance.
        self.register_buffer("unit", widths[self.has_lines].clamp(min=TINY) * self.spectrum.window.square().sum() ** (mel_config.power / 2))

    def envelope(self, mel):
        """Log-mel `[B, n_mels, frames]` -> standard deviation of each line of the noise's spectrum, `[B, n_fft / 2 + 1, frames]`."""
        loudness = (self.spectrum.target(mel)[:, self.has_lines] / self.unit).pow(1 / self.spectrum.config.power)
        loudness = torch.maximum(loudness, self.config.relative_floor * loudness.amax(1, keepdim=True)).clamp(self.config.floor, 1.0)
        return (self.interpolation @ loudness.log()).exp()

    def whiten(self, y, mel):
        return self._filter(y, lambda spectrum, envelope: spectrum / envelope, mel).clamp(-LIMIT, LIMIT)

    def unwhiten(self, z, mel):
        return self._filter(z, lambda spectrum, envelope: spectrum * envelope, mel).clamp(-1, 1)

    def limit(self, mel):
        return LIMIT

    def _filter(self, y, function, mel):
        if self.interpolation.device != y.device:
            self.to(y.device)
        with torch.autocast(y.device.type, enabled=False):
            # A frame of silence on each side: what is at the ends has whole windows, too.
            padded = F.pad(y.float(), (self.hop_length, self.hop_length))
            envelope = F.pad(self.envelope(mel.float()), (1, 1), mode="replicate")
            filtered = self.spectrum.istft(function(self.spectrum.stft(padded), envelope), padded)
            return filtered[:, self.hop_length : -self.hop_length].to(y.dtype)


def _linear_interpolation(knots, places):
    """Matrix `[places, knots]` that interpolates values at rising knots linearly; beyond the ends the values stay."""
    places = places.clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, places).clamp(1, len(knots) - 1)
    share = (places - knots[right - 1]) / (knots[right] - knots[right - 1])
    matrix = torch.zeros(len(places), len(knots), dtype=torch.float32, device="cpu")
    rows = torch.arange(len(places), device="cpu")
    matrix[rows, right - 1], matrix[rows, right] = 1 - share, share
    return matrix
