"""The energy-based prior of PriorGrad (Lee et al., 2022, section 4): the noise of the diffusion is as loud as the speech in it.

y_n = sqrt(alpha_bar) y_0 + sqrt(1 - alpha_bar) std noise, with a standard deviation from the energy of the mel, frame by frame,
instead of 1 throughout. Between frames it is interpolated in decibels, which PriorGrad does not: steps of the noise, and of the
waveform in its units, would be heard at the borders of frames. The network predicts std noise, and its loss is the distance in units of std.
"""

import torch

from model.mel import expand


class EnergyPrior:
    """`EnergyPrior(config, mel_config)(mel)` is the standard deviation of the noise, sample by sample.

    That of a sample depends on its frame, whose own it is at the first sample, and on the next one; the last frame has no next.

    Args:
        config: a `model.config.EnergyPriorConfig`.
        mel_config: the `MelConfig` of the mels.
    """

    def __init__(self, config, mel_config):
        self.config, self.mel_config = config, mel_config

    def __call__(self, mel):
        """`[..., n_mels, frames]` -> `[..., frames * hop_length]`."""
        magnitudes = (expand(mel, self.mel_config) / self.mel_config.power).exp()
        energy = torch.linalg.vector_norm(magnitudes, dim=-2)
        logarithm = (energy / self.config.loudest).clamp(self.config.floor, 1.0).log()
        following = torch.cat([logarithm[..., 1:], logarithm[..., -1:]], dim=-1)
        position = torch.arange(self.mel_config.hop_length, device=mel.device) / self.mel_config.hop_length
        return torch.lerp(logarithm[..., None], following[..., None], position).exp().flatten(-2)


def make_prior(config):
    """The prior of a `Config`, None if it has none."""
    return None if config.prior is None else EnergyPrior(config.prior, config.mel)


def standard_deviation(network, mel):
    """Of a network's noise: that of its prior, `[..., frames * hop_length]`; 1 without one, `[]`, as in WaveGrad."""
    prior = getattr(network, "prior", None)
    return mel.new_ones(()) if prior is None else prior(mel)
