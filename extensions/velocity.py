"""Velocity prediction (Salimans and Ho, 2022, appendix D); `network.prediction` "velocity" in the configuration, off by default.

At noise level l the velocity is v = l epsilon - sqrt(1 - l^2) y_0. The weights are those of a `WaveGrad`. Where there is little but noise,
the noise is easily predicted and says little about the waveform; the velocity is the waveform there.
"""

from torch import Tensor

from model.network import WaveGrad


class VelocityWaveGrad(WaveGrad):
    """A `WaveGrad` whose layers predict the velocity. It is called as `WaveGrad` is, and returns the predicted noise."""

    def forward(self, y_n: Tensor, mel: Tensor, noise_level: Tensor) -> Tensor:
        velocity, level = super().forward(y_n, mel, noise_level), noise_level.to(y_n.dtype)[:, None]
        return (1 - level**2).sqrt() * y_n + level * velocity


def loss_weight(noise_level: Tensor) -> Tensor:
    """Weights of the diffusion loss at noise levels `[B]` that make it the velocity's: an error e of v is an error l e of the noise."""
    return 1 / noise_level
