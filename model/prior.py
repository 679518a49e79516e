"""The energy-based prior of PriorGrad (Lee et al., 2022, section 4): the noise of the diffusion is as loud as the speech in it.

Its standard deviation follows from the energy of the mel, frame by frame, instead of 1 throughout. This is a change of variable:
of the whitened waveform z_0 = y_0 / std, network, loss and reverse process are WaveGrad's own. So a waveform is divided by std before
training, a generated one is multiplied by std, and nothing between the two depends on the prior, but that |y_0| <= 1 is |z_0| <= 1 / std.

Between frames std is interpolated in decibels, which PriorGrad does not: steps at the borders of frames would be audible.
"""

import torch

from model.mel.transform import expand


class StandardNormalPrior:
    """WaveGrad's own: std is 1. Called as `EnergyPrior` is, it returns `[]`."""

    context_frames = 0

    def __call__(self, mel):
        return mel.new_ones(())


class EnergyPrior:
    """`EnergyPrior(config, mel_config)(mel)` is the standard deviation of the noise, sample by sample.

    At the first sample of a frame it is that of the frame; from there it changes to that of the next frame. The last frame has no next.

    Args:
        config: a `model.config.EnergyPriorConfig`.
        mel_config: the `MelConfig` of the mels.
    """

    context_frames = 1  # the next one

    def __init__(self, config, mel_config):
        self.config, self.mel_config = config, mel_config

    def __call__(self, mel):
        """`[..., n_mels, frames]` -> `[..., frames * hop_length]`."""
        magnitudes = (expand(mel, self.mel_config) / self.mel_config.power).exp()
        energy = torch.linalg.vector_norm(magnitudes, dim=-2)
        logarithm = (energy / self.config.loudest).clamp(self.config.floor, 1.0).log()
        following = torch.cat([logarithm[..., 1:], logarithm[..., -1:]], dim=-1)
        position = torch.arange(self.mel_config.hop_length, dtype=mel.dtype, device=mel.device) / self.mel_config.hop_length
        return torch.lerp(logarithm[..., None], following[..., None], position).exp().flatten(-2)


def make_prior(config):
    """The prior of a `Config`."""
    return StandardNormalPrior() if config.prior is None else EnergyPrior(config.prior, config.mel)
