"""Network, averaged network and optimiser, and what one step does with them.

`Trainer.train_step` and the methods after it are one whole step; `training.loop` repeats it and logs what it did.
"""

import contextlib
import math
import platform
import warnings
from typing import NamedTuple, Optional

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import default_collate

from common.audio import Conversions
from common.device import autocast
from common.errors import InputError, shortened
from datasets import Recordings
from extensions.infer_grad.adversarial import Adversary
from extensions.infer_grad.loss import InferGradLoss
from extensions.interop.diagnosis import diagnose
from extensions.registry import make_network, make_prior
from model.checkpoint import starts_of
from model.diffusion import diffusion_loss
from model.mel import LogMelSpectrogram, mel_statistics, parse_mel_statistics, statistics_of_recordings
from model.noise_schedule import BUILDERS
from training import distributed
from training.examples import BatchNumbers, DiffusionExamples, batches
from training.explained import explained_out_of_memory
from training.low_pass import low_passed
from training.optimization import checkpoint_activations, ema_update, learning_rate_factor
from training.same_data import changed_lists, describe_data, n_shared, summary
from training.stability import StabilityGuard
from training.stages import stage_at, stages_of
from training.statistics import BAND_NAMES, LossByGroup, band_of

N_VALIDATION_EXAMPLES = 128
N_STATISTICS_RECORDINGS = 200  # that the mel statistics are taken of, spread over the filelist
N_COMPARED_MELS = 20  # mel files that are compared with the mels of their recordings, spread over the filelist
LEARNING_RATE_CUT = 0.5  # at each return to an earlier checkpoint
AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def versions():
    """What the last digits of a result depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def spread(n, most):
    """Up to `most` of the indices below `n`, at equal distances."""
    return range(0, n, -(-n // most))


class StepResult(NamedTuple):
    """What one step did; the same on every process, but for `losses` and `noise_levels`, which are this process's share.

    Tensors are on the CPU. `infer_grad_loss` is the distance from the recordings, without what discriminators add.
    """

    loss: float
    gradient_norm: float
    updated: bool
    losses: torch.Tensor
    noise_levels: torch.Tensor
    infer_grad_loss: Optional[float]


class Inference(NamedTuple):
    """What InferGrad's steps made of a batch: its losses `[B]`, the distance from the recordings alone, `[B]`, both waveforms `[B, T]`."""

    losses: torch.Tensor
    distances: torch.Tensor
    y_0: torch.Tensor
    generated: torch.Tensor


class Trainer:
    """All processes make theirs at the same time.

    Args:
        config: a `model.config.Config`.
        folder: folder that the configuration's filelists are relative to.

    Raises:
        OSError, InputError: the recordings or the configuration cannot be used on this machine, or are others on another one.
        SystemExit: another process says what is wrong.
    """

    def __init__(self, config, folder):
        self.config = config
        self.stages = stages_of(config)
        training = config.training
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.device = distributed.device()
        self._data = self._mel_statistics = None
        # What may go wrong on one machine alone comes before the first exchange of tensors, where the others would wait.
        distributed.agree(lambda: self._prepare(folder))
        if self.world_size > 1:
            data = distributed.agree(self.data)
            of_lists = {f"{name} data": f"{describe_data(data[name])} ({data[name]['digest'][:8]})" for name in data}
            distributed.agree_on({"device": self.device.type, **of_lists})
        distributed.agree(self._build)
        # Losses are computed through this one: only its forward has the gradients averaged over the processes.
        self.parallel_network = self.network
        if self.world_size > 1:
            # Added up over several calls, a gradient of 1 x 1 taps has other strides than its weight, which say the same.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            # The buffers are constants; sent out at each call, they would spoil the gradients of several calls in a step.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # new versions have another name for it, old ones only this
                self.parallel_network = DistributedDataParallel(self.network, gradient_as_bucket_view=True, broadcast_buffers=False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.stages[0].config.training.learning_rate, fused=True)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, learning_rate_factor(self.stages))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=training.precision == "fp16")
        self.guard = StabilityGuard(training.skip_limit, training.explosion_factor)
        self.step = 0
        self.position = 0  # number of the next example
        self.n_rollbacks = 0
        self.best_validation_loss = None

    def _prepare(self, folder):
        """Checks machine and recordings."""
        config, schedule = self.config, self.config.noise_schedule
        self._check_machine()
        self.schedule = BUILDERS[schedule.name](schedule.n_steps, schedule.start, schedule.stop)
        self.mel_transform, self.prior = LogMelSpectrogram(config.mel).to(self.device), make_prior(config)
        self.infer_grad_losses_of_stages = {stage.number: self._infer_grad_loss(stage.config, folder) for stage in self.stages}
        self.recordings = self._recordings(folder / config.data.train_filelist)
        self.segments = low_passed(self.recordings, config.data.low_pass_share)
        self.validation_examples = self._examples(self._recordings(folder / config.data.validation_filelist), config.data, 0)

    def _build(self):
        """Makes network and average on the device."""
        training = self.config.training
        # All segments have one length, so that the fastest convolutions for it are worth a search.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        torch.manual_seed(training.seed)
        with explained_out_of_memory(training):
            self.network = self._new_network().to(self.device)
            self.ema = AveragedModel(self.network, multi_avg_fn=ema_update(self.stages))
        if training.activation_checkpointing:
            checkpoint_activations(self.network)
        adversaries = [loss.config.adversarial for loss in self.infer_grad_losses_of_stages.values() if loss and loss.config.adversarial]
        self.adversary = Adversary(adversaries, training.seed, self.device) if adversaries else None

    def _check_machine(self):
        training = self.config.training
        smallest = min(stage.config.training.batch_size for stage in self.stages)
        if smallest < self.world_size:
            raise InputError(f"training.batch_size is {smallest} (wanted: {self.world_size} or more, one per process)")
        if training.precision == "fp16" and self.device.type == "cpu":
            raise InputError("training.precision is fp16, which needs a GPU (wanted on a CPU: fp32 or bf16)")
        if training.precision == "bf16" and self.device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            raise InputError("training.precision is bf16, which this GPU does not have (wanted: fp32 or fp16)")

    def _new_network(self):
        return make_network(self.config)

    def _infer_grad_loss(self, config, folder):
        """The `InferGradLoss` of a stage's configuration, or None."""
        training = config.training
        if training.infer_grad is None:
            return None
        segment_samples = config.data.segment_frames * config.mel.hop_length
        return InferGradLoss(training.infer_grad, folder, segment_samples, config, training.seed, self.device)

    def _examples(self, recordings, data, seed):
        return DiffusionExamples(recordings, data.segment_frames, self.mel_transform.context, self.schedule, seed, data.even_over_speakers)

    def _recordings(self, filelist):
        if not filelist.exists():
            raise InputError(
                f"{filelist}: No such filelist (wanted: an existing one; `sh runs/make_filelists.sh FOLDER` makes those of a folder "
                "of recordings)"
            )
        data = self.config.data
        return Recordings(filelist, self.config.mel, Conversions(data.mix_to_mono, data.resample))

    def warnings(self):
        """Lines on what is unusual about the recordings."""
        recordings = [self.recordings, self.validation_examples.recordings]
        lines = [LogMelSpectrogram(self.config.mel).empty_bands]
        lines += [of_list.warning for of_list in recordings] + [self._foreign_mels(of_list) for of_list in recordings]
        if n := n_shared(recordings[1], recordings[0]):
            lines.append(
                f"{n} of {len(recordings[1])} validation recordings are training recordings too: the best loss may be that of what was "
                "learnt by heart (wanted: others)"
            )
        return [f"warning: {line}" for line in lines if line]

    def _foreign_mels(self, recordings):
        """One line if mel files are not those of the definition, as the recordings beside them show; else None."""
        if recordings.mel_paths is None:
            return None
        definition = LogMelSpectrogram(self.config.mel)
        indices = spread(len(recordings), N_COMPARED_MELS)
        statistics = statistics_of_recordings((recordings[i] for i in indices), definition)
        complaints = {recordings.mel_paths[i]: diagnose(recordings.mel(i), definition, statistics) for i in indices}
        wrong = [f"{path}: {complaint}" for path, complaint in complaints.items() if complaint]
        return f"{len(wrong)} of {len(complaints)} mel files: {wrong[0]}" if wrong else None

    def begin_at(self, step):
        """Puts a new trainer after `step` steps of its configuration, without what they would have taught network and optimiser."""
        self.step = step
        of_stages = [(stage, min(stage.end, step) - stage.first) for stage in self.stages if stage.first < step]
        self.position = sum(n_steps * stage.config.training.batch_size for stage, n_steps in of_stages)
        self.ema.n_averaged.fill_(step)
        self.lr_scheduler.last_epoch = step
        for group, base, factor in zip(self.optimizer.param_groups, self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas):
            group["lr"] = base * factor(step)

    @property
    def stage(self):
        """The `Stage` of the next step, or the last one."""
        return stage_at(self.stages, self.step)

    @property
    def infer_grad_loss(self):
        """The `InferGradLoss` of the stage, or None."""
        return self.infer_grad_losses_of_stages[self.stage.number]

    @property
    def starts(self):
        """What sampling is trained to start from so far; see `model.checkpoint.Checkpoint`."""
        stage = stage_at(self.stages, self.step - 1)  # of the last step
        loss = self.infer_grad_losses_of_stages[stage.number]
        began = loss and self.step > stage.config.training.infer_grad.from_step
        return starts_of(loss.schedules if began else ())

    @property
    def examples(self):
        """The `DiffusionExamples` of the stage."""
        return self._examples(self.segments, self.stage.config.data, self.config.training.seed)

    def batches(self):
        """This process's batches from here to the end of the stage."""
        n_batches, batch_size = self.stage.end - self.step, self.stage.config.training.batch_size
        numbers = BatchNumbers(self.position, n_batches, batch_size, self.rank, self.world_size)
        return batches(self.examples, numbers, self.config.data.n_workers, self.device.type == "cuda")

    def train_step(self, batch):
        """One update from this process's share of a batch; skipped on all processes where it would not be finite."""
        training = self.stage.config.training
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, distances = self._backward(batch)
        self.scaler.unscale_(self.optimizer)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), training.gradient_clip)

        totals = distributed.total(torch.stack([losses.sum(), distances.sum()]))
        # The one time in a step that this process waits for its device.
        figures = torch.cat([gradient_norm[None], totals, losses]).cpu()
        gradient_norm, *totals = figures[:3].tolist()
        loss, distance = (total / training.batch_size for total in totals)

        # Loss and averaged gradient are the same on all processes, and so is this decision.
        updated = math.isfinite(gradient_norm) and math.isfinite(loss)
        if updated:
            self.scaler.step(self.optimizer)
            self.lr_scheduler.step()
            self.ema.update_parameters(self.network)
        if training.infer_grad and training.infer_grad.adversarial:
            self.adversary.step(training.infer_grad.adversarial, updated)
        self.scaler.update()
        self.step += 1
        self.position += training.batch_size
        return StepResult(loss, gradient_norm, updated, figures[3:], batch.noise_level, distance if len(distances) else None)

    def _backward(self, batch):
        """Gradient of the mean objective of the whole batch, in portions that fit into memory.

        Returns:
            the diffusion losses `[B]`, and the distances of InferGrad, `[B]`, or `[0]` in a step without them.
        """
        training = self.stage.config.training
        infer_grad = training.infer_grad
        with_inference = infer_grad is not None and infer_grad.counts_at(self.step)
        losses, distances = [], [torch.zeros(0, device=self.device)]
        portions = batch.split(training.micro_batch_size or training.batch_size)
        for i, portion in enumerate(portions):
            wait = self.world_size > 1 and i < len(portions) - 1  # gradients are exchanged once, after the last portion
            with self.parallel_network.no_sync() if wait else contextlib.nullcontext():
                # Where it does not count it is computed all the same, in a third of the time, for the log and against divergence.
                with torch.set_grad_enabled(not with_inference or infer_grad.diffusion_counts_at(self.step)):
                    losses.append(self.losses(self.parallel_network, portion))
                objective = losses[-1].sum()
                if with_inference:
                    inference = self.inference(self.parallel_network, portion, self.infer_grad_loss.schedule_at(self.step))
                    distances.append(inference.distances)
                    objective = objective + infer_grad.weight * inference.losses.sum()
                # DistributedDataParallel takes the mean over processes, whose shares may differ by one example.
                self.scaler.scale(objective * (self.world_size / training.batch_size)).backward()
                if with_inference and infer_grad.adversarial:
                    with self.autocast():
                        self.adversary.backward(inference.y_0, inference.generated.detach(), 1 / training.batch_size)
        return torch.cat(losses).detach(), torch.cat(distances).detach()

    def losses(self, network, batch):
        """`[B]` losses of a `Batch`."""
        y_0, mel = self._given(batch)
        noise, noise_level = self._on_device(batch.noise), self._on_device(batch.noise_level)
        with self.autocast():
            return diffusion_loss(network, self.prior.whiten(y_0, mel), mel, noise_level, noise)

    def inference(self, network, batch, schedule):
        """The `Inference` of a `Batch` by all steps of a schedule, see `training.infer_grad`."""
        y_0, mel = self._given(batch)
        noises = self._on_device(self.infer_grad_loss.noises(batch.number, len(schedule), y_0.shape[1]))
        with self.autocast():
            results = self.infer_grad_loss.results(network, schedule, mel, noises)
        losses = distances = self.infer_grad_loss(y_0, results)
        adversarial = self.infer_grad_loss.config.adversarial
        if adversarial:
            with self.autocast():
                losses = distances + self.adversary.losses(y_0, results[-1], adversarial)
        return Inference(losses, distances, y_0, results[-1])

    def _given(self, batch):
        """Waveform `[B, T]` and mel of a `Batch`, on the device."""
        segment = self._on_device(batch.segment)
        left, right = self.mel_transform.context
        mel = self._on_device(batch.mel) if batch.mel.shape[-1] else self.mel_transform.from_padded(segment)
        return segment[:, left : segment.shape[1] - right], mel

    def _on_device(self, tensor):
        return tensor.to(self.device, non_blocking=True)

    def autocast(self):
        """Convolutions in the configured precision; noise levels, loss, weights and their average stay in float32."""
        return autocast(self.device, AUTOCAST_DTYPES[self.config.training.precision])

    @torch.no_grad()
    def evaluate(self):
        """Loss of the averaged weights on the same validation segments, noise and noise levels every time.

        Each process takes its share.

        Returns:
            the mean loss, and a dictionary of mean losses by band of the noise level and, where there are several, by speaker.
        """
        training = self.config.training
        network = self.ema.module.eval()
        n_at_once = training.micro_batch_size or max(training.batch_size // self.world_size, 1)
        numbers = range(self.rank, N_VALIDATION_EXAMPLES, self.world_size)
        speakers = self.validation_examples.recordings.speakers
        names = sorted(set(speakers))
        by_band, by_speaker = LossByGroup(BAND_NAMES), LossByGroup(names)
        for start in range(0, len(numbers), n_at_once):
            batch = default_collate([self.validation_examples[number] for number in numbers[start : start + n_at_once]])
            losses = self.losses(network, batch).cpu()
            by_band.add(losses, band_of(batch.noise_level))
            recordings = map(self.validation_examples.recording_of, batch.number.tolist())
            by_speaker.add(losses, torch.tensor([names.index(speakers[i]) for i in recordings]))
        loss, of_bands = by_band.means(self.device)
        _, of_speakers = by_speaker.means(self.device)
        figures = {f"validation_loss_by_noise_level/{name}": mean for name, mean in of_bands.items()}
        if len(names) > 1:
            figures |= {f"validation_loss_by_speaker/{name}": mean for name, mean in of_speakers.items()}
        return loss, figures

    def lower_learning_rate(self):
        """Multiplies the learning rate, now and for the rest of the run, by LEARNING_RATE_CUT."""
        self.n_rollbacks += 1
        self._set_learning_rate()

    def _set_learning_rate(self):
        base = self.stages[0].config.training.learning_rate * LEARNING_RATE_CUT**self.n_rollbacks
        self.lr_scheduler.base_lrs = [base]
        learning_rate = base * learning_rate_factor(self.stages)(self.lr_scheduler.last_epoch)
        for group in self.optimizer.param_groups:
            group["initial_lr"], group["lr"] = base, learning_rate

    def data(self):
        """List, "training" or "validation", -> `same_data.summary` of its recordings."""
        if self._data is None:
            recordings = {"training": self.recordings, "validation": self.validation_examples.recordings}
            self._data = {name: summary(of_list) for name, of_list in recordings.items()}
        return self._data

    def schedules(self):
        """Path, as in the configuration, -> `NoiseSchedule.content` of what InferGrad takes."""
        losses = filter(None, self.infer_grad_losses_of_stages.values())
        return {path: content for loss in losses for path, content in loss.schedule_contents.items()}

    def mel_statistics(self):
        """What the mels of this training look like, as JSON text, for inference to know a foreign mel by."""
        if self._mel_statistics is None:
            indices = spread(len(self.recordings), N_STATISTICS_RECORDINGS)
            mel_transform = LogMelSpectrogram(self.config.mel)
            mels = (self.recordings.mel(i) if self.recordings.mel_paths else mel_transform(self.recordings[i]) for i in indices)
            self._mel_statistics = mel_statistics(mels).model_dump_json()
        return self._mel_statistics

    def state_dict(self):
        """Everything that the rest of the run depends on; the mel definition is part of the configuration."""
        cuda = self.device.type == "cuda"
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "position": self.position,
            "n_rollbacks": self.n_rollbacks,
            "stability": self.guard.state_dict(),
            "best_validation_loss": self.best_validation_loss,
            **({"adversary": self.adversary.state_dict()} if self.adversary else {}),
            # Examples have generators of their own, and the network draws nothing; this is for whoever adds dropout.
            "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None},
            "config": self.config.model_dump_json(),
            "mel_statistics": self.mel_statistics(),
            "data": self.data(),
            "schedules": self.schedules(),
            "starts": self.starts,
            "versions": versions(),
        }

    def load_state_dict(self, state, origin="the training state"):
        """Goes on from a training state of the same network; a changed learning rate or batch size takes effect here.

        What was judged by other recordings than the present ones is judged anew.

        Args:
            state: what `state_dict` returned, its types checked.
            origin: what to call it in a message.

        Returns:
            list of what was not taken over, a line each; and whether the validation recordings are others.

        Raises:
            InputError: it is not a state of such a network and optimiser.
        """
        try:
            self._load(state, origin)
        except InputError:
            raise
        except Exception as error:  # PyTorch promises no set of exceptions
            raise InputError(f"{origin}: its training state cannot be used ({shortened(error)})") from None
        return self._judge_anew(state)

    def _load(self, state, origin):
        self.network.load_state_dict(state["network"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            if not moments["step"].shape == () or any(moments[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
                raise InputError(f"{origin}: 'optimizer' is that of another network")
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.ema.n_averaged.fill_(self.lr_scheduler.last_epoch)  # both count the updates
        if self.scaler.is_enabled() and state["scaler"]:  # empty where the run so far was not in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.position = state["position"]
        self.n_rollbacks = state["n_rollbacks"]
        self.guard.load_state_dict(state["stability"])
        self.best_validation_loss = state["best_validation_loss"]
        if self.adversary and "adversary" in state:  # missing in a run that had none until now
            self.adversary.load_state_dict(state["adversary"])
        self._mel_statistics = state.get("mel_statistics")  # missing in states from before there were any
        if self._mel_statistics is not None:
            parse_mel_statistics(self._mel_statistics, self.config.mel.n_mels, f"{origin} (mel statistics in the checkpoint)")
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"])
        self._set_learning_rate()

    def _judge_anew(self, state):
        before = state.get("data")  # missing likewise
        changed = changed_lists(before, self.data()) if before is not None else []
        consequences = {
            "training": "the divergence guard and the mel statistics begin anew",
            "validation": "the best loss is looked for anew",
        }
        if "training" in changed:
            self.guard.begin_anew()
            self._mel_statistics = None
        if "validation" in changed:
            self.best_validation_loss = None
        lines = [
            f"{name} data changed: {describe_data(self.data()[name])}, were {describe_data(before[name])}: {consequences[name]}"
            for name in changed
        ]
        schedules = state.get("schedules") or {}  # missing likewise
        for path, now in self.schedules().items():
            was = schedules.get(path, now)
            lines += [
                f"noise schedule {path} changed: {key} was {shortened(was.get(key))}, is {shortened(now.get(key))}"
                for key in sorted(now | was)
                if was.get(key) != now.get(key)
            ]
        return lines, "validation" in changed
