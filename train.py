"""Trains a WaveGrad: `python train.py -c CONFIG`, or `sh runs/train.sh -c CONFIG` for one process per device.

A sample is a pure function of the seed and its number: which recording, which segment, which noise, which noise level.
So the run is the same for any number of processes and data workers, and resuming needs no more than the step.
"""

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from datasets import Recordings
from metrics import log_mel_l1, pesq_wideband, short_time_intelligibility
from model.checkpoint import check_same, load_training_state, save_atomically
from model.config import load_config, parse_config
from model.diffusion import diffusion_loss, sample_noise_level
from model.errors import InputError, run_command
from model.mel import LogMelSpectrogram
from model.network import WaveGrad
from model.noise_schedule import BUILDERS, NoiseSchedule
from model.sampler import ancestral_sample

N_VALIDATION_EXAMPLES = 128
N_PREVIEWS = 3
PREVIEW_SCHEDULE = Path(__file__).parent / "schedules" / "wg-6.json"


class DiffusionExamples(Dataset):
    """Endless numbered training examples; number `k` is drawn from a generator seeded with (seed, k)."""

    def __init__(self, recordings, segment_frames, context, schedule, seed):
        self.recordings = recordings
        self.segment_frames = segment_frames
        self.context = context
        self.schedule = schedule
        self.seed = seed

    def __getitem__(self, number):
        """Returns a segment with its context, the noise `[T]` and the noise level `[]`."""
        epoch, place = divmod(number, len(self.recordings))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.recordings))
        seed = np.random.SeedSequence((self.seed, epoch, place)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed))
        segment = self.recordings.segment(int(order[place]), self.segment_frames, self.context, generator)
        noise = torch.randn(len(segment) - sum(self.context), generator=generator)
        noise_level = sample_noise_level(self.schedule, 1, generator)[0]
        return segment, noise, noise_level


class BatchNumbers:
    """The example numbers of each step's batch, from step `start` on, for one of several processes."""

    def __init__(self, start, n_steps, batch_size, rank=0, world_size=1):
        self.steps = range(start, n_steps)
        self.batch_size = batch_size
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __len__(self):
        return len(self.steps)

    def __iter__(self):
        for step in self.steps:
            yield range(step * self.batch_size, (step + 1) * self.batch_size)[self.share]


def learning_rate_factor(training):
    """Step -> share of the learning rate: linear warm-up, then cosine decay to the final learning rate."""
    floor = training.final_learning_rate / training.learning_rate

    def factor(step):
        if step < training.warmup_steps:
            return (step + 1) / training.warmup_steps
        progress = (step - training.warmup_steps) / max(training.n_steps - training.warmup_steps, 1)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

    return factor


def ema_update(decay):
    """Exponential moving average whose decay grows towards `decay`, so that the first steps are soon forgotten."""

    def update(averages, currents, n_averaged):
        n = int(n_averaged)
        torch._foreach_lerp_(list(averages), list(currents), 1 - min(decay, (1 + n) / (10 + n)))

    return update


class Trainer:
    """Args:
        config: a `model.config.Config`.
        folder: folder that the configuration's filelists are relative to.
        logdir: where checkpoints and TensorBoard's files go.
    """

    def __init__(self, config, folder, logdir):
        self.config, self.logdir = config, Path(logdir)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        training, data = config.training, config.data
        if training.batch_size % self.world_size:
            raise InputError(f"training.batch_size is {training.batch_size} (wanted: a multiple of {self.world_size} processes)")
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")

        schedule = config.noise_schedule
        self.schedule = BUILDERS[schedule.name](schedule.n_steps, schedule.start, schedule.stop)
        self.mel = LogMelSpectrogram(config.mel).to(self.device)
        self.examples, self.validation_examples = (
            DiffusionExamples(
                Recordings(folder / filelist, config.mel, data.mix_to_mono),
                data.segment_frames,
                self.mel.context,
                self.schedule,
                seed,
            )
            for filelist, seed in [(data.train_filelist, training.seed), (data.validation_filelist, 0)]
        )

        torch.manual_seed(training.seed)
        self.network = WaveGrad(config.network, config.mel.n_mels).to(self.device)
        self.ema = AveragedModel(self.network, multi_avg_fn=ema_update(training.ema_decay))
        self.parallel_network = DistributedDataParallel(self.network, gradient_as_bucket_view=True) if dist.is_initialized() else self.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate, fused=True)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, learning_rate_factor(training))
        self.step = 0

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16")

    def losses(self, network, batch):
        """`[B]` losses of a batch of `DiffusionExamples`."""
        segment, noise, noise_level = (tensor.to(self.device) for tensor in batch)
        left, right = self.mel.context
        y_0 = segment[:, left : segment.shape[1] - right]
        mel = self.mel.from_padded(segment)
        with self.autocast():
            return diffusion_loss(network, y_0, mel, noise_level, noise)

    def train_step(self, batch):
        """One optimiser update; returns loss and gradient norm."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.losses(self.parallel_network, batch).mean()
        loss.backward()
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.training.gradient_clip)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        return loss.item(), gradient_norm.item()

    @torch.no_grad()
    def evaluate(self):
        """Loss of the averaged weights on the same validation segments, noise and noise levels every time."""
        network = self.ema.module.eval()
        batch_size = self.config.training.batch_size
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        numbers = range(self.rank, N_VALIDATION_EXAMPLES, self.world_size)
        for start in range(0, len(numbers), batch_size):
            chunk = [self.validation_examples[number] for number in numbers[start : start + batch_size]]
            losses = self.losses(network, [torch.stack(part) for part in zip(*chunk)])
            total += torch.stack([losses.sum().double(), torch.tensor(float(len(chunk)), device=self.device)])
        if dist.is_initialized():
            dist.all_reduce(total)
        return (total[0] / total[1]).item()

    def preview(self, schedule, index):
        """Resynthesises a validation recording; returns recording, result, their mels and the metrics."""
        recording = self.validation_examples.recordings[index]
        mel = self.mel(recording.to(self.device))
        generator = torch.Generator().manual_seed(index)
        with self.autocast():
            result = ancestral_sample(self.ema.module.eval(), mel[None], schedule, generator)[0].float()
        result_mel = self.mel(result).cpu()
        sample_rate = self.config.mel.sample_rate
        figures = {
            "pesq": pesq_wideband(recording, result.cpu(), sample_rate),
            "stoi": short_time_intelligibility(recording, result.cpu(), sample_rate),
            "log_mel_l1": log_mel_l1(mel.cpu(), result_mel),
        }
        return recording, result.cpu(), mel.cpu(), result_mel, figures

    def state_dict(self):
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "step": self.step,
            "config": self.config.model_dump_json(),
        }

    def load_state_dict(self, state, path):
        """Goes on from a training state; a changed learning rate or batch size takes effect from here.

        Raises:
            InputError: the state belongs to another network or mel definition.
        """
        check_same(parse_config(state["config"], path), self.config, path)
        self.network.load_state_dict(state["network"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.n_averaged.fill_(state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.lr_scheduler.last_epoch = self.step
        factor = learning_rate_factor(self.config.training)(self.step)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = self.config.training.learning_rate
            group["lr"] = self.config.training.learning_rate * factor
        self.lr_scheduler.base_lrs = [self.config.training.learning_rate]

    def save(self):
        """Writes a checkpoint and removes the oldest beyond `keep_checkpoints`."""
        path = self.logdir / f"checkpoint-{self.step:08d}.pt"
        save_atomically(lambda temporary: torch.save(self.state_dict(), temporary), path)
        for old in checkpoints(self.logdir)[: -self.config.training.keep_checkpoints]:
            old.unlink()
        return path

    def resume(self):
        """Goes on from the newest checkpoint of the log folder, if there is one."""
        found = checkpoints(self.logdir)
        if found:
            self.load_state_dict(load_training_state(found[-1]), found[-1])
        return found[-1] if found else None


def checkpoints(logdir):
    """Checkpoints in a log folder, oldest first."""
    return sorted(Path(logdir).glob("checkpoint-*.pt"))


class Monitor:
    """What one sees of a run: a progress bar (plain lines where there is no terminal) and TensorBoard. Rank 0 only."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.writer = SummaryWriter(trainer.logdir, purge_step=trainer.step)
        self.writer.add_text("config", f"```json\n{trainer.config.model_dump_json(indent=2)}\n```", trainer.step)
        self.schedule = NoiseSchedule.load(PREVIEW_SCHEDULE)
        n_steps = trainer.config.training.n_steps
        self.bar = tqdm(total=n_steps, initial=trainer.step, unit="step", disable=not sys.stderr.isatty())

    def say(self, line):
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.write(line)

    def log_step(self, losses, gradient_norms):
        step = self.trainer.step
        learning_rate = self.trainer.lr_scheduler.get_last_lr()[0]
        self.writer.add_scalar("train/loss", np.mean(losses), step)
        self.writer.add_scalar("train/gradient_norm", np.mean(gradient_norms), step)
        self.writer.add_scalar("train/learning_rate", learning_rate, step)
        self.say(
            f"step {step}  loss {np.mean(losses):.4f}  gradient norm {np.mean(gradient_norms):.3f}  "
            f"learning rate {learning_rate:.2e}"
        )

    def log_validation(self, loss):
        trainer, step = self.trainer, self.trainer.step
        self.writer.add_scalar("validation/loss", loss, step)
        all_figures = []
        for index in range(min(N_PREVIEWS, len(trainer.validation_examples.recordings))):
            recording, result, mel, result_mel, figures = trainer.preview(self.schedule, index)
            all_figures.append(figures)
            sample_rate = trainer.config.mel.sample_rate
            self.writer.add_audio(f"result/{index}", result, step, sample_rate)
            self.writer.add_image(f"result/{index}", _mel_image(result_mel), step)
            self.writer.add_audio(f"recording/{index}", recording, step, sample_rate)
            self.writer.add_image(f"recording/{index}", _mel_image(mel), step)
        means = {key: float(np.nanmean([figures[key] for figures in all_figures])) for key in all_figures[0]}
        for key, value in means.items():
            self.writer.add_scalar(f"validation/{key}", value, step)
        self.say(f"step {step}  validation loss {loss:.4f}  " + "  ".join(f"{k} {v:.3f}" for k, v in means.items()))


def _mel_image(mel):
    """A log-mel spectrogram as an image `[1, n_mels, frames]`, low frequencies at the bottom."""
    image = (mel - mel.min()) / (mel.max() - mel.min()).clamp(min=1e-5)
    return image.flip(0)[None]


def train(config_path, logdir):
    config = load_config(config_path)
    trainer = Trainer(config, Path(config_path).parent, logdir)
    training = config.training
    trainer.logdir.mkdir(parents=True, exist_ok=True)
    resumed = trainer.resume()
    numbers = BatchNumbers(trainer.step, training.n_steps, training.batch_size, trainer.rank, trainer.world_size)
    loader = DataLoader(
        trainer.examples, batch_sampler=numbers, num_workers=config.data.n_workers, pin_memory=trainer.device.type == "cuda"
    )
    monitor = Monitor(trainer) if trainer.rank == 0 else None
    if monitor and resumed:
        monitor.say(f"resumed from {resumed}")

    losses, gradient_norms = [], []
    for batch in loader:
        loss, gradient_norm = trainer.train_step(batch)
        losses.append(loss)
        gradient_norms.append(gradient_norm)
        last = trainer.step == training.n_steps
        if monitor:
            monitor.bar.update()
        if monitor and (trainer.step % training.log_every == 0 or last):
            monitor.log_step(losses, gradient_norms)
            losses, gradient_norms = [], []
        if trainer.step % training.validate_every == 0 or last:
            validation_loss = trainer.evaluate()
            if monitor:
                monitor.log_validation(validation_loss)
        if monitor and (trainer.step % training.save_every == 0 or last):
            monitor.say(f"saved {trainer.save()}")
    return 0


def main():
    parser = argparse.ArgumentParser(description="Train a WaveGrad.")
    parser.add_argument("-c", "--config", required=True, help="configuration file")
    parser.add_argument("-l", "--logdir", help="checkpoints and TensorBoard files (default: logs/ and the configuration's name)")
    arguments = parser.parse_args()
    logdir = arguments.logdir or Path("logs") / Path(arguments.config).stem
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        return train(arguments.config, logdir)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    run_command(main)
