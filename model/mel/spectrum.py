"""The short-time spectrum that a mel is made of, frame by frame, and the way back."""

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InputError
from model.mel.transform import LogMelSpectrogram, expand

TINY = 1e-9  # keeps quotients of silence finite
MOMENTUM = 0.9  # of fast Griffin-Lim


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
                f"{user}: mel.win_length is {config.win_length} (wanted: more than twice mel.hop_length, which is {config.hop_length})"
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
        return expand(mel.float(), self.config).exp() * self.unit

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

    def griffin_lim(self, spectrum, y, project, n_iter):
        """Fast Griffin-Lim (Perraudin et al., 2013): `n_iter` times the waveform of a spectrum, and the spectrum of the waveform.

        Args:
            spectrum: where to start.
            y: as in `istft`, `[B, T]`.
            project: called with a spectrum, returns one with the magnitudes that are wanted.
            n_iter: 1 or more.

        Returns:
            `[B, T]`.
        """
        before = None
        for i in range(n_iter):
            y = self.istft(project(spectrum), y)
            if i + 1 < n_iter:
                consistent = self.stft(y)
                spectrum = consistent if before is None else consistent + MOMENTUM * (consistent - before)
                before = consistent
        return y


def with_magnitude(spectrum, magnitude):
    """A spectrum of the same phases and other magnitudes."""
    return spectrum * (magnitude / spectrum.abs().clamp(min=TINY))
