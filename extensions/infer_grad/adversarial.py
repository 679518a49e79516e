"""Adversarial training of a few denoising steps (WaveFit, Koizumi et al., 2022; PeriodWave-Turbo, Lee et al., 2024);
`training.infer_grad.adversarial` in the configuration, off by default.

InferGrad's steps are unrolled, and discriminators judge their result. The network is trained to make them take it for a recording, and
they are trained to tell the two apart, in turn within each step.
"""

import torch

from common.errors import InputError
from extensions.infer_grad.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_matching_loss
from training import distributed

BETAS = (0.8, 0.99)  # of Adam, as in HiFi-GAN


class Adversary:
    """The discriminators of a run and their optimiser, the same on all processes.

    Args:
        configs: the `model.config.AdversarialConfig` of each stage that has one; what may differ between them is given with each step.
        seed: of the discriminators' weights.
        device: where the waveforms are.

    Raises:
        InputError: the stages want different discriminators.
    """

    def __init__(self, configs, seed, device):
        config = configs[0]
        for other in configs:
            for key in ("windows", "periods", "channels"):
                expected, found = getattr(config, key), getattr(other, key)
                if found != expected:
                    raise InputError(f"training.stages: adversarial.{key}: expected {expected} in all stages, got {found}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminators = Discriminators(config.windows, config.periods, config.channels).to(device)
        self.parameters = list(self.discriminators.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, betas=BETAS)
        self.totals = torch.zeros(2, device=device)  # sum of the losses since the last `mean_loss`, and their number

    def losses(self, y_0, generated, config):
        """What the network is to make small, `[B]`: w_a (D(y_hat) - 1)^2 + w_f |features of y - features of y_hat|.

        Args:
            config: the `AdversarialConfig` of the stage, which has the weights w.
            y_0, generated: recording and generated waveform, `[B, T]`; gradients flow back to the generated one alone.
        """
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        with torch.no_grad():
            of_recording = self.discriminators(y_0)
        of_generated = self.discriminators(generated)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        adversarial, matching = adversarial_loss(of_generated), feature_matching_loss(of_recording, of_generated)
        return config.adversarial_weight * adversarial + config.feature_weight * matching

    def backward(self, y_0, generated, share):
        """Adds the gradient of the discriminators' loss, times `share`, of waveforms `[B, T]` without gradients."""
        losses = discriminator_loss(self.discriminators(y_0), self.discriminators(generated))
        (losses.sum() * share).backward()
        self.totals += torch.stack([losses.detach().float().sum(), losses.new_tensor(len(losses), dtype=torch.float32)])

    def step(self, config, updated=True):
        """Updates the discriminators by their gradients of all processes, or drops these.

        Args:
            config: the `AdversarialConfig` of the stage, which has the learning rate and the largest gradient norm.
        """
        if updated and self.parameters[0].grad is not None:
            for parameter in self.parameters:
                distributed.total(parameter.grad)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate
            if norm.isfinite():
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def mean_loss(self):
        """Mean loss of the discriminators over all processes since this was last asked, or None; to be called on all of them."""
        total, number = distributed.total(self.totals.clone()).tolist()
        self.totals.zero_()
        return total / number if number else None

    def state_dict(self):
        return {"discriminators": self.discriminators.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.discriminators.load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])
