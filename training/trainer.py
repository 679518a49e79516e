"""Network, averaged network and optimiser, and what one step does with them; `training.loop` repeats the step and logs what it did."""

import contextlib
import math
import platform
import warnings
from statistics import fmean
from typing import NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import default_collate

from common.device import autocast
from common.errors import InputError, shortened
from extensions.registry import make_network, make_objective, make_prior
from model.checkpoint import starts_of
from model.mel import LogMelSpectrogram
from model.noise_schedule import BUILDERS
from training import distributed
from training.data import TrainingData
from training.examples import batch_numbers, batches
from training.objective import PreparedBatch
from training.optimization import checkpoint_activations, ema_update, learning_rate
from training.safety import StabilityGuard
from training.stages import stage_at, stages_of
from training.statistics import BAND_NAMES, means_by_name

N_VALIDATION_EXAMPLES = 128
LEARNING_RATE_CUT = 0.5  # at each return to an earlier checkpoint
AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StepResult(NamedTuple):
    """What one step did, the same on every process.

    Keys:
        updated: whether the update was made, not skipped.
        figures: means over the batch of the objective's figures by name, and `gradient_norm`.
    """

    updated: bool
    figures: dict


class Trainer:
    """All processes make theirs at the same time.

    Args:
        config: a `model.config.Config`.
        folder: folder that paths in the configuration are relative to.

    Raises:
        OSError, InputError: the recordings or the configuration cannot be used on this machine.
        SystemExit: another process says what is wrong.
    """

    def __init__(self, config, folder):
        self.config = config
        self.stages = stages_of(config)
        training = config.training
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.device = distributed.device()
        # What may go wrong on one machine alone comes before the first exchange of tensors, where the others would wait.
        distributed.agree(lambda: self._prepare(folder))
        if self.world_size > 1:
            lists = self.data.training, self.data.validation
            distributed.check_same_everywhere((config, self.device.type, *([path.name for path in one.paths] for one in lists)))
        self._build()
        self.parallel_network = self._parallel() if self.world_size > 1 else self.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=training.precision == "fp16")
        self.guard = StabilityGuard(training.skip_limit, training.explosion_factor)
        self.step = self.n_updates = 0  # a skipped step is no update
        self.position = 0  # number of the next example
        self.n_rollbacks = 0
        self.best_validation_loss = None
        self._set_learning_rate()

    def _prepare(self, folder):
        """Checks machine, configuration and recordings."""
        config, schedule = self.config, self.config.noise_schedule
        self._check_machine()
        self.schedule = BUILDERS[schedule.name](schedule.n_steps, schedule.start, schedule.stop)
        self.mel_transform, self.prior = LogMelSpectrogram(config.mel).to(self.device), make_prior(config)
        self.objective = make_objective(self, folder)
        self.data = TrainingData(config, folder, self.schedule, self.prior.margin_frames)

    def _check_machine(self):
        training = self.config.training
        smallest = min(stage.config.training.batch_size for stage in self.stages)
        if smallest < self.world_size:
            raise InputError(f"training.batch_size: expected {self.world_size} or more, one per process, got {smallest}")
        if training.precision == "fp16" and self.device.type == "cpu":
            raise InputError("training.precision: expected fp32 or bf16 on a CPU, got fp16")
        if training.precision == "bf16" and self.device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            raise InputError("training.precision: expected fp32 or fp16 on this GPU, got bf16")

    def _build(self):
        """Makes network and average on the device."""
        training = self.config.training
        # All segments have one length, so that the fastest convolutions for it are worth a search.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        torch.manual_seed(training.seed)
        self.network = make_network(self.config).to(self.device)
        self.ema = AveragedModel(self.network, multi_avg_fn=ema_update(self.stages))
        if training.activation_checkpointing:
            checkpoint_activations(self.network)
        if training.compile:
            self.network.compile(dynamic=False)

    def _parallel(self):
        """The network whose forward has the gradients averaged over the processes; losses are computed through it alone."""
        # Added up over several calls, a gradient of 1 x 1 taps has other strides than its weight, which say the same.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # The buffers are constants; sent out at each call, they would spoil the gradients of several calls in a step.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # new versions have another name for it, old ones only this
            return DistributedDataParallel(self.network, gradient_as_bucket_view=True, broadcast_buffers=False)

    @property
    def stage(self):
        """The `Stage` of the next step, or the last one."""
        return stage_at(self.stages, self.step)

    def batches(self):
        """This process's batches from here to the end of the stage."""
        n_batches, batch_size = self.stage.end - self.step, self.stage.config.training.batch_size
        numbers = batch_numbers(self.position, n_batches, batch_size, self.rank, self.world_size)
        examples = self.data.examples(self.stage.config.data)
        return batches(examples, numbers, self.config.data.n_workers, self.device.type == "cuda")

    def train_step(self, batch):
        """One update from this process's share of a batch (algorithm 1); skipped on all processes where it would not be finite."""
        training = self.stage.config.training
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        figures = self._backward(batch)
        self.scaler.unscale_(self.optimizer)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), training.gradient_clip)

        means = distributed.total(torch.stack([values.sum() for values in figures.values()])) / training.batch_size
        # The one wait for the device in a step. The figures are the same on all processes, and so is the decision.
        figures = dict(zip([*figures, "gradient_norm"], torch.cat([means, gradient_norm[None]]).tolist()))
        updated = all(map(math.isfinite, figures.values()))
        if updated:
            self.scaler.step(self.optimizer)
            self.ema.update_parameters(self.network)
            self.n_updates += 1
            self._set_learning_rate()
        self.objective.update(updated)
        self.scaler.update()
        self.step += 1
        self.position += training.batch_size
        return StepResult(updated, figures)

    def _backward(self, batch):
        """Gradient of the mean objective of the whole batch, in portions that fit into memory.

        Returns:
            the figures of the objective, `[B]` by name.
        """
        training, parts = self.stage.config.training, []
        portions = batch.split(training.micro_batch_size or training.batch_size)
        for i, portion in enumerate(portions):
            wait = self.world_size > 1 and i < len(portions) - 1  # gradients are exchanged once, after the last portion
            with self.parallel_network.no_sync() if wait else contextlib.nullcontext():
                losses = self.objective.losses(self.parallel_network, self.prepare(portion), self.step)
                # DistributedDataParallel takes the mean over processes, whose shares may differ by one example.
                self.scaler.scale(losses.objective.sum() * (self.world_size / training.batch_size)).backward()
            self.objective.backward(1 / training.batch_size)
            parts.append(losses.figures)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def prepare(self, batch):
        """The `PreparedBatch` of a `training.examples.Batch`."""
        segment, noise, noise_level, mel = (
            tensor.to(self.device, non_blocking=True) for tensor in (batch.segment, batch.noise, batch.noise_level, batch.mel)
        )
        left, right = self.mel_transform.context
        mel = mel if mel.shape[-1] else self.mel_transform.from_padded(segment)
        y_0, margin = segment[:, left : segment.shape[1] - right], self.prior.margin_frames
        z_0 = self.prior.whiten(y_0, mel)
        frames = slice(margin, mel.shape[-1] - margin)
        samples = slice(margin * self.config.mel.hop_length, y_0.shape[-1] - margin * self.config.mel.hop_length)
        return PreparedBatch(y_0[:, samples], z_0[:, samples], mel[..., frames].contiguous(), noise, noise_level, batch.number)

    def autocast(self):
        """Convolutions in the configured precision; noise levels, loss, weights and their average stay in float32."""
        return autocast(self.device, AUTOCAST_DTYPES[self.config.training.precision])

    @torch.no_grad()
    def evaluate(self):
        """Diffusion loss of the averaged weights on the same validation segments, noise and noise levels every time.

        Each process takes its share.

        Returns:
            the mean loss, and a dictionary of mean losses by band of the noise level and, where there are several, by speaker.
        """
        training, examples = self.config.training, self.data.validation_examples
        network = self.ema.module.eval()
        n_at_once = training.micro_batch_size or max(training.batch_size // self.world_size, 1)
        numbers = range(self.rank, N_VALIDATION_EXAMPLES, self.world_size)
        speakers, losses, by_group = self.data.validation.speakers, [], []
        has_several = len(set(speakers)) > 1
        for start in range(0, len(numbers), n_at_once):
            batch = default_collate([examples[number] for number in numbers[start : start + n_at_once]])
            of_batch = self.objective.diffusion(network, self.prepare(batch)).tolist()
            losses += of_batch
            for loss, level, number in zip(of_batch, batch.noise_level.tolist(), batch.number.tolist()):
                band = BAND_NAMES[min(int(level * len(BAND_NAMES)), len(BAND_NAMES) - 1)]
                groups = {f"validation_loss_by_noise_level/{band}": loss}
                if has_several:
                    groups[f"validation_loss_by_speaker/{speakers[examples.recording_of(number)]}"] = loss
                by_group.append(groups)
        parts = distributed.collect((losses, by_group))
        return fmean(loss for losses, _ in parts for loss in losses), means_by_name(groups for _, by_group in parts for groups in by_group)

    def begin_at(self, step):
        """Puts a new trainer after `step` steps of its configuration, without what they would have taught network and optimiser."""
        self.step = self.n_updates = step
        of_stages = [(stage, min(stage.end, step) - stage.first) for stage in self.stages if stage.first < step]
        self.position = sum(n_steps * stage.config.training.batch_size for stage, n_steps in of_stages)
        self.ema.n_averaged.fill_(step)
        self._set_learning_rate()

    def _set_learning_rate(self):
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stages, self.n_updates) * LEARNING_RATE_CUT**self.n_rollbacks

    def state_dict(self):
        """Everything that the rest of the run depends on; the mel definition is part of the configuration."""
        cuda, schedules = self.device.type == "cuda", self.objective.schedules(self.step)
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "n_updates": self.n_updates,
            "position": self.position,
            "n_rollbacks": self.n_rollbacks,
            "stability": self.guard.state_dict(),
            "best_validation_loss": self.best_validation_loss,
            **self.objective.state_dict(),
            # Examples have generators of their own, and the network draws nothing; this is for whoever adds dropout.
            "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None},
            "config": self.config.model_dump_json(),
            "mel_statistics": self.data.mel_statistics(),
            "schedules": {path: schedule.content for path, schedule in schedules.items()},
            "starts": starts_of(schedules.values()),
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }

    def load_state_dict(self, state, origin="the training state"):
        """Goes on from a training state of the same network; a changed learning rate or batch size takes effect here.

        Args:
            state: what `state_dict` returned.
            origin: what to call it in a message.

        Raises:
            InputError: it is not a state of such a network and optimiser.
        """
        try:
            self._load(state, origin)
        except InputError:
            raise
        except Exception as error:  # PyTorch promises no set of exceptions
            raise InputError(f"{origin}: its training state cannot be used ({shortened(error)})") from None

    def _load(self, state, origin):
        self.network.load_state_dict(state["network"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            if not moments["step"].shape == () or any(moments[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
                raise InputError(f"{origin}: 'optimizer' is that of another network")
        self.n_updates = state["n_updates"] if "n_updates" in state else state["lr_scheduler"]["last_epoch"]  # of older versions
        self.ema.n_averaged.fill_(self.n_updates)
        if self.scaler.is_enabled() and state["scaler"]:  # empty where the run so far was not in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.position = state["position"]
        self.n_rollbacks = state["n_rollbacks"]
        self.guard.load_state_dict(state["stability"])
        self.best_validation_loss = state["best_validation_loss"]
        self.objective.load_state_dict(state)
        self.data.known_mel_statistics = state.get("mel_statistics")  # missing in states from before there were any
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"])
        self._set_learning_rate()
