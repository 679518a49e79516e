"""What training minimises. Another objective is a class like `DiffusionObjective` and a line in `extensions.registry.OBJECTIVES`."""

from typing import NamedTuple

from torch import Tensor

from extensions.registry import loss_weight
from model.diffusion import diffusion_loss


class PreparedBatch(NamedTuple):
    """A batch as an objective gets it: on the device, with mels and whitened waveforms.

    Keys:
        y_0: clean waveform, `[B, T]`; z_0: the same, whitened by the prior.
        mel: log-mel spectrogram, `[B, n_mels, frames]`.
        noise, noise_level: those of algorithm 1, `[B, T]` and `[B]`.
        number: of each example, `[B]`, on the CPU.
    """

    y_0: Tensor
    z_0: Tensor
    mel: Tensor
    noise: Tensor
    noise_level: Tensor
    number: Tensor


class Losses(NamedTuple):
    """What an objective returns for a batch.

    Keys:
        objective: what is minimised, `[B]`, with a gradient.
        figures: figures by name, `[B]` each, for the log. `loss` is the diffusion loss, by which a divergence is seen; it is left out
            where it is not part of the objective.
    """

    objective: Tensor
    figures: dict


class DiffusionObjective:
    """WaveGrad's own objective, algorithm 1; and the interface of every objective.

    Args:
        trainer: the `Trainer`: its `config`, `stages`, `device`, `prior` and `autocast`.
        folder: folder that paths in the configuration are relative to.

    Raises:
        OSError, InputError: the configuration cannot be used.
    """

    def __init__(self, trainer, folder):
        self.trainer, self.loss_weight = trainer, loss_weight(trainer.config)

    def losses(self, network, batch: PreparedBatch, step: int) -> Losses:
        """`Losses` of a batch at an optimiser step, from 0 on; the network has its gradients averaged over the processes."""
        losses = self.diffusion(network, batch)
        return Losses(losses, {"loss": losses.detach()})

    def diffusion(self, network, batch: PreparedBatch) -> Tensor:
        """Diffusion loss of each example, `[B]`."""
        with self.trainer.autocast():
            losses = diffusion_loss(network, batch.z_0, batch.mel, batch.noise_level, batch.noise)
        return losses * self.loss_weight(batch.noise_level)

    def backward(self, share: float):
        """Adds the gradients of parameters of its own, for the last `losses`, times `share`."""

    def update(self, updated: bool):
        """Updates parameters of its own after the network's update; drops their gradients if that one was skipped."""

    def kinds(self, stage):
        """Kind of step -> the numbers of its steps in a stage; what the dry run measures."""
        return {"step": range(stage.first, stage.end)}

    def schedules(self, step: int) -> dict:
        """Path, as in the configuration, -> `NoiseSchedule` that the network has been trained to sample with before an optimiser step."""
        return {}

    def figures(self) -> dict:
        """Figures by name since this was last called, for the log; called on all processes."""
        return {}

    def preview(self, network):
        """The `Pipeline` that previews show beside six steps from noise, or None."""
        return None

    def state_dict(self) -> dict:
        """What the rest of the run depends on; its keys are entries of the training state."""
        return {}

    def load_state_dict(self, state: dict):
        """Takes its entries from a training state, where they are."""
