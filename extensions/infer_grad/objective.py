"""InferGrad's objective, with discriminators where the configuration has them; `training.infer_grad`, off by default."""

from extensions.infer_grad.adversarial import Adversary
from extensions.infer_grad.loss import InferGradLoss
from training.objective import DiffusionObjective, Losses
from training.stages import stage_at


class InferGradObjective(DiffusionObjective):
    """The diffusion loss and, in the steps in which InferGrad counts, the distance of what a few denoising steps generate.

    Stages without `infer_grad` have the diffusion loss alone.
    """

    def __init__(self, trainer, folder):
        super().__init__(trainer, folder)
        self.stages, self.seed, self.device = trainer.stages, trainer.config.training.seed, trainer.device
        self.of_stages = {stage.number: self._of_stage(stage.config, folder) for stage in self.stages}
        configs = [loss.config.adversarial for loss in self.of_stages.values() if loss and loss.config.adversarial]
        self.adversary = Adversary(configs, self.seed, self.device) if configs else None
        self._judged = None  # what the discriminators of a step are to tell apart: their configuration, recordings, generated waveforms

    def _of_stage(self, config, folder):
        training = config.training
        if training.infer_grad is None:
            return None
        segment_samples = config.data.segment_frames * config.mel.hop_length
        return InferGradLoss(training.infer_grad, folder, segment_samples, config, self.seed, self.device)

    def losses(self, network, batch, step):
        loss = self.of_stages[stage_at(self.stages, step).number]
        self._judged = None
        if loss is None or not loss.config.counts_at(step):
            return super().losses(network, batch, step)
        schedule = loss.schedule_at(step)
        noises = loss.noises(batch.number, len(schedule), batch.y_0.shape[1]).to(self.device)
        with self.trainer.autocast():
            results = loss.results(network, schedule, batch.mel, noises)
        distances = loss(batch.y_0, results)
        objective, figures = loss.config.weight * distances, {"infer_grad_loss": distances.detach()}
        if loss.config.diffusion_counts_at(step):
            diffusion = self.diffusion(network, batch)
            objective = objective + diffusion
            figures["loss"] = diffusion.detach()
        if loss.config.adversarial:
            with self.trainer.autocast():
                objective = objective + loss.config.weight * self.adversary.losses(batch.y_0, results[-1], loss.config.adversarial)
            self._judged = loss.config.adversarial, batch.y_0, results[-1].detach()
        return Losses(objective, figures)

    def backward(self, share):
        if self._judged:
            with self.trainer.autocast():
                self.adversary.backward(*self._judged[1:], share)

    def update(self, updated):
        if self._judged:
            self.adversary.step(self._judged[0], updated)
            self._judged = None

    def kinds(self, stage):
        config, kinds = stage.config.training.infer_grad, {}
        for step in range(stage.first, stage.end):
            kinds.setdefault("step with inference" if config and config.counts_at(step) else "step", []).append(step)
        return kinds

    def schedules(self, step):
        stage = stage_at(self.stages, step - 1)  # of the last step
        loss = self.of_stages[stage.number]
        began = loss and step > loss.config.from_step
        return dict(zip(loss.paths, loss.schedules)) if began else {}

    def figures(self):
        mean = self.adversary and self.adversary.mean_loss()
        return {} if mean is None else {"discriminator_loss": mean}

    def preview(self, network):
        loss = next(loss for loss in reversed(list(self.of_stages.values())) if loss)
        return loss.pipeline(network, loss.schedules[0])

    def state_dict(self):
        return {"adversary": self.adversary.state_dict()} if self.adversary else {}

    def load_state_dict(self, state):
        if self.adversary and "adversary" in state:  # missing in a run that had none until now
            self.adversary.load_state_dict(state["adversary"])
