"""PriorGrad (Lee et al., 2022, section 4): noise as loud as the speech in it; `prior` in the configuration, off by default.

Its standard deviation, std, follows from the energy of the mel, frame by frame; in WaveGrad it is 1 everywhere. This is a change of
variable: network, loss and reverse process are WaveGrad's own, for the whitened waveform z_0 = y_0 / std. Between the two, one thing
depends on the prior: |y_0| <= 1 is |z_0| <= 1 / std.

Between frames std is interpolated in decibels, which PriorGrad does not: steps at the borders of frames would be audible.
"""

import torch

from model.mel import expand


class EnergyPrior:
    """The prior, with the interface of `model.pipeline.StandardNormalPrior`.

    The first sample of a frame has the standard deviation of the frame. Until the first sample of the next frame it changes linearly in
    decibels. In the last frame it is constant.

    Args:
        config: a `model.config.EnergyPriorConfig`.
        mel_config: the `MelConfig` of the mels.
    """

    context_frames = 1  # the next one
    margin_frames = 0

    def __init__(self, config, mel_config, spectrum=None):
        self.config, self.mel_config = config, mel_config

    def whiten(self, y, mel):
        return y / self.std(mel)

    def unwhiten(self, z, mel):
        return self.std(mel) * z

    def limit(self, mel):
        return 1 / self.std(mel)

    def std(self, mel):
        """Log-mel `[..., n_mels, frames]` -> standard deviation `[..., frames * hop_length]`, within [floor, 1]."""
        magnitudes = (expand(mel, self.mel_config) / self.mel_config.power).exp()
        energy = torch.linalg.vector_norm(magnitudes, dim=-2)
        logarithm = (energy / self.config.loudest).clamp(self.config.floor, 1.0).log()
        following = torch.cat([logarithm[..., 1:], logarithm[..., -1:]], dim=-1)
        position = torch.arange(self.mel_config.hop_length, dtype=mel.dtype, device=mel.device) / self.mel_config.hop_length
        return torch.lerp(logarithm[..., None], following[..., None], position).exp().flatten(-2)
