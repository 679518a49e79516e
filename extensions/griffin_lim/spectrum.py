"""The short-time spectrum that a mel is made of, frame by frame, and Griffin-Lim (1984) towards a mel, the way back."""

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InputError
from model.mel import LogMelSpectrogram, expand

TINY = 1e-9  # keeps quotients of silence finite
LARGEST_LOG_MEL = 14.0  # natural logarithm of magnitude; a waveform within [-1, 1] has less than 12
MOMENTUM = 0.9  # of fast Griffin-Lim
SCALINGS = 2  # multiplicative updates of the magnitudes towards a mel, in each of its iterations
LEAST_GAIN, MOST_GAIN = 0.05, 20.0  # of one update of the power spectrum


class MelSpectrum(nn.Module):
    """Spectra `[B, n_fft / 2 + 1, frames]` with the frames, window and filters of a mel.

    Args:
        config: a `model.config.MelConfig`.
        user: who needs the way back, for messages.

    Attributes:
        filters: of the mel bands, `[n_mels, n_fft / 2 + 1]`.
        widths: sum of the filters at each line, `[n_fft / 2 + 1, 1]`; 0 where there is no band.

    Raises:
        InputError: windows overlap by half or less, which is too little for Griffin-Lim.
    """

    def __init__(self, config, user):
        super().__init__()
        if config.win_length <= 2 * config.hop_length:
            raise InputError(
                f"{user}: mel.win_length is {config.win_length} (expected: more than twice mel.hop_length, which is {config.hop_length})"
            )
        self.config = config
        mel_transform = LogMelSpectrogram(config)
        self.margins = mel_transform.context
        self.first_centre = config.n_fft // 2 - mel_transform.context[0]  # the sample that the first frame is centred on
        filters = mel_transform.spectrogram.mel_scale.fb.T.clone()
        self.register_buffer("window", mel_transform.spectrogram.spectrogram.window.clone())
        self.register_buffer("filters", filters)
        self.register_buffer("widths", filters.sum(0)[:, None])
        covered = filters.sum(0).nonzero().flatten().tolist() or [0]
        self.lines = covered[0], covered[-1] + 1  # the first one that a band covers, and the one after the last
        self.unit = self.window.square().sum().sqrt().item() ** config.power if config.normalized else 1.0

    @property
    def reach(self):
        """Number of frames on each side that a frame shares samples with."""
        return -(-self.config.win_length // self.config.hop_length)

    def target(self, mel):
        """Log-mel `[B, n_mels, frames]` -> mel of the spectra here, not logarithmic, `[B, n_mels, frames]`."""
        log_mel = expand(mel.float(), self.config).clamp(max=LARGEST_LOG_MEL * self.config.power)  # what no waveform has stays finite
        return log_mel.exp() * self.unit

    def stft(self, y):
        """`[B, T]` -> `[B, n_fft / 2 + 1, frames]`."""
        mode = self.config.pad_mode if y.shape[-1] > max(self.margins) else "constant"
        padded = F.pad(y[None], self.margins, mode=mode)[0]
        config = self.config
        return torch.stft(padded, config.n_fft, config.hop_length, config.win_length, self.window, center=False, return_complex=True)

    def istft(self, spectrum, y):
        """The waveform `[B, T]` of a spectrum; the samples before the centre of the first frame are those of `y`."""
        config, start = self.config, self.first_centre
        length = y.shape[-1] - start
        waveform = torch.istft(spectrum, config.n_fft, config.hop_length, config.win_length, self.window, length=length)
        return torch.cat([y[..., :start], waveform], -1)

    def magnitude(self, spectrum):
        """Of a spectrum from `stft`, `[B, n_fft / 2 + 1, frames]`."""
        return spectrum.abs()

    def smooth_magnitude(self, target):
        """Magnitudes, smooth over frequency, whose mel is about `target`, `[B, n_mels, frames]` -> `[B, n_fft / 2 + 1, frames]`.

        Outside the range of the mel, the level of the outermost band is repeated.
        """
        (lowest, highest), of_bands = self.lines, self.filters.sum(1, keepdim=True)
        loudness = torch.where(of_bands > 0, target / of_bands.clamp(min=TINY), 0.0)  # narrow bands may cover no line
        power = (self.filters.T @ loudness) / self.widths.clamp(min=TINY)
        power[..., 1:lowest, :], power[..., highest:, :] = loudness[..., :1, :], loudness[..., -1:, :]
        return power.pow(1 / self.config.power)

    def shaped(self, noise, target):
        """Noise `[B, T]` in the shape of a mel: its phases, and the magnitudes of `smooth_magnitude`; `[B, T]`."""
        spectrum = self.stft(noise)
        spectrum = spectrum * (self.smooth_magnitude(target) / self.magnitude(spectrum).clamp(min=TINY))
        return self.istft(spectrum, torch.zeros_like(noise))  # silence before the first frame

    def _gain(self, magnitude, target):
        """Factors that bring the mel of magnitudes `[B, n_fft / 2 + 1, frames]` close to `target`, `[B, n_mels, frames]`."""
        exponent = self.config.power
        power, gain = magnitude if exponent == 1 else magnitude.pow(exponent), 1.0
        for _ in range(SCALINGS):
            of_band = target / (self.filters @ (gain * power)).clamp(min=TINY)
            of_line = (self.filters.T @ of_band) / self.widths.clamp(min=TINY)
            gain = gain * torch.where(self.widths > TINY, of_line.clamp(LEAST_GAIN, MOST_GAIN), 1.0)  # lines of no band stay as they are
        return gain if exponent == 1 else gain.pow(1 / exponent)

    def griffin_lim(self, y, target, n_iter):
        """Fast Griffin-Lim (Perraudin et al., 2013): `n_iter` times the spectrum of the waveform, and the waveform of the spectrum.

        Between the two, the magnitudes are scaled until their mel is about the wanted one. Those of a pseudo-inverse of the mel would be
        smooth within each band; scaled, harmonics stay as narrow as they are.

        Args:
            y: the waveform to start from, `[B, T]`.
            target: the mel, as from `target`, `[B, n_mels, frames]`.
            n_iter: 0 or more.

        Returns:
            `[B, T]`.
        """
        before = None
        for _ in range(n_iter):
            consistent = self.stft(y)
            spectrum = consistent if before is None else consistent + MOMENTUM * (consistent - before)
            y, before = self.istft(spectrum * self._gain(self.magnitude(spectrum), target), y), consistent
        return y
