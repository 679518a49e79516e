"""What a configuration, a schedule or an option switches on, by name; vocoder, training and benchmarks take their parts from here."""

import pkgutil
from typing import Optional

import torch
from torch import nn

from common.errors import InputError
from extensions import velocity
from extensions.griffin_lim.estimate import make_start
from extensions.griffin_lim.gla_grad import GlaGrad
from extensions.griffin_lim.spectrum import MelSpectrum
from extensions.interop.published import load_published
from extensions.priorgrad import EnergyPrior
from extensions.specgrad import SpectralPrior
from model import checkpoint
from model.config import Config
from model.network import WaveGrad
from model.noise_schedule import NoiseSchedule
from model.pipeline import Pipeline, StandardNormalPrior

PRIORS = {"energy": EnergyPrior, "spectral": SpectralPrior}  # `prior.kind` -> class
NETWORKS = {"noise": WaveGrad, "velocity": velocity.VelocityWaveGrad}  # `network.prediction` -> class

# `training.objective.name` -> class, imported when it is chosen and made as `OBJECTIVES[name](trainer, folder)`.
OBJECTIVES = {
    "diffusion": "training.objective.DiffusionObjective",
    "infer_grad": "extensions.infer_grad.objective.InferGradObjective",
}


def make_objective(trainer, folder):
    """The objective of a training, see `training.objective.DiffusionObjective`.

    Raises:
        OSError, InputError: there is none of this name, or its configuration cannot be used.
    """
    config = trainer.config.training.objective
    has_infer_grad = any(stage.config.training.infer_grad for stage in trainer.stages)
    name = config.name if config else "infer_grad" if has_infer_grad else "diffusion"
    if name not in OBJECTIVES:
        raise InputError(f"training.objective.name: expected one of {', '.join(OBJECTIVES)}, got '{name}'")
    return pkgutil.resolve_name(OBJECTIVES[name])(trainer, folder)


def loss_weight(config: Config):
    """Noise levels `[B]` -> weights of the diffusion loss, `[B]`: 1 as in the paper, or those of what the network predicts."""
    return velocity.loss_weight if config.network.prediction == "velocity" else torch.ones_like


def make_network(config: Config) -> WaveGrad:
    """The untrained network of a configuration."""
    return NETWORKS[config.network.prediction](config.network, config.mel.n_mels)


def make_prior(config: Config, spectrum=MelSpectrum):
    """The prior of a configuration, see `model.pipeline.StandardNormalPrior`; `spectrum` as in `make_pipeline`."""
    return StandardNormalPrior() if config.prior is None else PRIORS[config.prior.kind](config.prior, config.mel, spectrum)


def make_pipeline(
    network: nn.Module,
    config: Config,
    schedule: NoiseSchedule,
    sampler: Optional[str] = None,
    gla_grad: int = 0,
    spectrum=MelSpectrum,
) -> Pipeline:
    """The synthesis of a network.

    Args:
        network: its network, or one that is called as it.
        config: its configuration.
        sampler: a name for `model.samplers.find_sampler`; None is the one that the schedule was made for.
        gla_grad: iterations of GLA-Grad after it; 0 is none.
        spectrum: `MelSpectrum` or a subclass, for the estimate and for GLA-Grad.

    Raises:
        InputError: there is no such sampler, or the mel is not for GLA-Grad or for the estimate of the schedule.
    """
    start = make_start(schedule, config.mel, spectrum)
    correction = GlaGrad(config.mel, gla_grad, spectrum) if gla_grad else None
    return Pipeline(network, schedule, sampler, make_prior(config, spectrum), start, correction)


def read_checkpoint(path, config: Optional[Config] = None) -> checkpoint.Checkpoint:
    """`model.checkpoint.read_checkpoint`, of files of other projects too."""
    return checkpoint.read_checkpoint(path, config, load_published)


def build_network(content: checkpoint.Checkpoint, path) -> WaveGrad:
    """The network of a checkpoint's content, in evaluation mode.

    Args:
        path: what to call it in a message.

    Raises:
        InputError: the weights are not those of the network.
    """
    network = make_network(content.config)
    checkpoint.load_strictly(network, content.weights, path)
    return network.eval()


def load_network(path, config: Optional[Config] = None):
    """The network of a checkpoint in evaluation mode, and its `Config`; errors as of `read_checkpoint` and `build_network`."""
    content = read_checkpoint(path, config)
    return build_network(content, path), content.config
