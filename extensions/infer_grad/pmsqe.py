"""How loud the errors of generated speech sound, as an objective: the disturbances of PESQ, in the manner of PMSQE;
`training.infer_grad.pmsqe_weight` in the configuration, off by default.

PESQ: ITU-T P.862 and P.862.2; PMSQE: Martín-Doñas et al., 2018. What PESQ does because of telephone lines is left out here, the
alignment of delay, level and frequency response: a vocoder has to keep all three.
"""

import torch
from scipy.signal import freqz
from torch import nn
from torch.nn.functional import one_hot

FRAME, HOP = 0.032, 0.016  # s
GAIN = 1.15e6  # of the power of frames of 512 samples: brings speech with an RMS of .11 to PESQ's listening level
PRE_EMPHASIS = (2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794)  # filter at 16 kHz (P.862.2)
BANDS_PER_BARK = 49 / 22.436  # 49 bands to 8 kHz
LOUDNESS_SCALE, ZWICKER_EXPONENT = 0.187, 0.23
DEAD_ZONE = 0.25  # share of the smaller loudness by which the other may differ unheard
ADDED_FLOOR, ADDED_EXPONENT, ADDED_LEAST, ADDED_MOST = 50.0, 1.2, 3.0, 12.0
SYMMETRIC_WEIGHT, ASYMMETRIC_WEIGHT = 0.1, 0.0309


def bark(frequency):
    """Hz -> Bark (Schroeder et al., 1979)."""
    return 7 * torch.asinh(frequency / 650)


def hearing_threshold(frequency):
    """Hz -> power of a tone that is just heard, 1 near 1 kHz (Terhardt, 1979)."""
    kilohertz = frequency / 1000
    decibels = 3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
    return 10 ** (decibels / 10)


class PMSQE(nn.Module):
    """`0.1 symmetric + 0.0309 asymmetric`, PESQ's sum, of the root mean squares over frames of

    - symmetric: the L2 norm over Bark bands of how much louder or softer than the recording it is, where that is heard;
    - asymmetric: the L1 norm of the same where power was added that the recording hardly has; it is heard most.

    Args:
        sample_rate: in Hz.
    """

    def __init__(self, sample_rate):
        super().__init__()
        self.n_fft, self.hop_length = round(FRAME * sample_rate), round(HOP * sample_rate)
        lines = torch.arange(1, self.n_fft // 2 + 1, dtype=torch.float64) * sample_rate / self.n_fft  # Hz, without 0
        _, response = freqz(*PRE_EMPHASIS, worN=lines.clamp(max=8000).numpy(), fs=16000)
        band_of_line = (BANDS_PER_BARK * bark(lines)).ceil().long() - 1
        members = one_hot(torch.unique(band_of_line, return_inverse=True)[1]).double()  # low bands may have no line
        centres = lines @ members / members.sum(0)
        exponent = ZWICKER_EXPONENT * (6 / (bark(centres) + 2)).clamp(1, 2) ** 0.15
        gains = GAIN * (512 / self.n_fft) ** 2 * torch.from_numpy(response).abs().square()
        self.register_buffer("bands", (members * gains[:, None]).float())
        self.register_buffer("widths", (torch.gradient(bark(lines))[0] @ members).float())
        self.register_buffer("threshold", hearing_threshold(centres).float())
        self.register_buffer("exponent", exponent.float())
        self.register_buffer("window", torch.hann_window(self.n_fft))

    def _powers(self, waveform):
        """`[B, T]` -> `[B, frames, bands]`."""
        lines = torch.stft(waveform, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True)[:, 1:]
        return (lines.real.square() + lines.imag.square()).mT @ self.bands

    def _loudness(self, power):
        """Zwicker's law, in Sone per Bark."""
        audible = (0.5 + 0.5 * power / self.threshold).clamp(min=1.0)
        return LOUDNESS_SCALE * (2 * self.threshold) ** self.exponent * (audible**self.exponent - 1)

    def forward(self, reference, generated):
        """`[B, T]` and `[B, T]` -> `[B]`; gradients flow back to both."""
        powers = self._powers(reference), self._powers(generated)
        a, b = map(self._loudness, powers)
        disturbance = ((a - b).abs() - DEAD_ZONE * torch.minimum(a, b)).clamp(min=0)
        symmetric = ((self.widths * disturbance).square().sum(-1) * self.widths.sum()).mean(-1)
        with torch.no_grad():
            added = ((powers[1] + ADDED_FLOOR) / (powers[0] + ADDED_FLOOR)) ** ADDED_EXPONENT
            added = torch.where(added < ADDED_LEAST, 0.0, added.clamp(max=ADDED_MOST))
        asymmetric = (self.widths * disturbance * added).sum(-1).square().mean(-1)
        return SYMMETRIC_WEIGHT * (symmetric + 1e-4).sqrt() + ASYMMETRIC_WEIGHT * (asymmetric + 1e-4).sqrt()
