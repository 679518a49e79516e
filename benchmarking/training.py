"""How fast a training step is, and how much memory it needs: variants side by side, one step of each in turn.

`benchmark.py training` is its command line. The objective is WaveGrad's own, whatever `training.infer_grad` and `stages` say.
"""

import platform
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarking.tools.textbook import textbook
from common.device import synchronized_time
from common.errors import positive_int
from model.config import load_config
from model.fast_layers import Conv1d
from training.memory import peak_live_bytes
from training.optimization import learning_rate_factor
from training.trainer import Trainer

GIGABYTE = 1e9
CLAIM_BATCH, CLAIM_BYTES = 96, 12e9  # ivanvovk/WaveGrad: batch 96 of 7,200 samples on a GPU with 12 GB


class SyntheticRecordings:
    """Noise in place of recordings: neither time nor memory depends on what is learnt."""

    def __init__(self, mel_config):
        self.mel_config, self.mel_paths = mel_config, None
        self.speakers = [""] * len(self)

    def __len__(self):
        return 1000

    def segment(self, index, n_frames, context, generator):
        n_samples = n_frames * self.mel_config.hop_length + sum(context)
        return 0.1 * torch.randn(n_samples, generator=generator), torch.empty(self.mel_config.n_mels, 0)


class PresentTrainer(Trainer):
    """The trainer as it is, on synthetic data."""

    def _recordings(self, filelist):
        return SyntheticRecordings(self.config.mel)


class PlainStep:
    """The textbook step: no fused optimiser, the average of the weights taken one by one."""

    def train_step(self, batch):
        training = self.config.training
        self.optimizer.zero_grad()
        loss = self.losses(self.network, batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), training.gradient_clip)
        self.optimizer.step()
        self.lr_scheduler.step()
        n = self.lr_scheduler.last_epoch - 1  # updates before this one
        with torch.no_grad():
            for average, parameter in zip(self.ema.module.parameters(), self.network.parameters()):
                average.lerp_(parameter, 1 - min(training.ema_decay, (1 + n) / (10 + n)))
        self.step += 1
        return loss.item()


def plain_trainer(base):
    """A trainer class of the plain loop, on the data of `base`: eager, the network in textbook form, plain Adam."""

    class PlainTrainer(PlainStep, base):
        def __init__(self, config, folder):
            super().__init__(config, folder)
            self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.training.learning_rate, foreach=False)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, learning_rate_factor(self.stages))

        def _new_network(self):
            return textbook(super()._new_network(), self.config)

    return PlainTrainer


class StandardGradientTrainer(PresentTrainer):
    """The trainer as it is, but for the weight gradient, which is oneDNN's."""

    def _new_network(self):
        network = super()._new_network()
        for conv in network.modules():
            if type(conv) is Conv1d:
                conv.forward = partial(nn.Conv2d.forward, conv)
        return network


class CompiledTrainer(PresentTrainer):
    """The trainer as it is, its network through torch.compile."""

    def __init__(self, config, folder):
        super().__init__(config, folder)
        self.parallel_network = torch.compile(self.network)


VARIANTS = {  # name -> trainer class, changes to the training section
    "plain fp32": (plain_trainer(PresentTrainer), {"precision": "fp32"}),
    "plain bf16": (plain_trainer(PresentTrainer), {"precision": "bf16"}),
    "present fp32": (PresentTrainer, {"precision": "fp32"}),
    "present bf16": (PresentTrainer, {"precision": "bf16"}),
    "present fp32, oneDNN's weight gradient": (StandardGradientTrainer, {"precision": "fp32"}),
    "present fp32, checkpointed activations": (PresentTrainer, {"precision": "fp32", "activation_checkpointing": True}),
    "compiled fp32": (CompiledTrainer, {"precision": "fp32"}),
    "compiled bf16": (CompiledTrainer, {"precision": "bf16"}),
}
REFERENCE = "plain fp32"


def variant_trainer(name, config):
    """A trainer of a variant, for one process, whole batches and WaveGrad's own objective."""
    trainer_class, changes = VARIANTS[name]
    whole = {"micro_batch_size": None, "activation_checkpointing": False, "infer_grad": None, "stages": None}
    training = config.training.model_copy(update={**whole, **changes})
    return trainer_class(config.model_copy(update={"training": training}), Path())


def time_variants(config, names, rounds, warm_up=2):
    """Times steps of several variants, one of each in turn, on the same batch.

    Returns:
        name -> list of seconds.
    """
    trainers = {name: variant_trainer(name, config) for name in names}
    batch = next(next(iter(trainers.values())).batches())
    seconds = {name: [] for name in names}
    for i in range(warm_up + rounds):
        for name, trainer in trainers.items():
            start = synchronized_time(trainer.device)
            trainer.train_step(batch)
            if i >= warm_up:
                seconds[name].append(synchronized_time(trainer.device) - start)
    return seconds


def memory_of_step(name, config):
    """Bytes that a step keeps alive at its peak: those that do not depend on the batch, and those of each sample."""
    peaks = []
    for batch_size in (1, 2):
        training = config.training.model_copy(update={"batch_size": batch_size})
        trainer = variant_trainer(name, config.model_copy(update={"training": training}))
        batch = next(trainer.batches())
        trainer.train_step(batch)  # the optimiser's state is made at the first step
        fixed = sum(t.numel() * t.element_size() for t in _persistent_tensors(trainer))
        peaks.append(fixed + peak_live_bytes(lambda: trainer.train_step(batch)))
    return 2 * peaks[0] - peaks[1], peaks[1] - peaks[0]


def _persistent_tensors(trainer):
    yield from trainer.network.parameters()
    yield from trainer.ema.module.parameters()
    for state in trainer.optimizer.state.values():
        yield from (value for value in state.values() if torch.is_tensor(value))


def add_arguments(parser):
    parser.add_argument("-c", "--config", default="configs/small-16k.json", help="configuration (default: %(default)s)")
    parser.add_argument("--batch_size", type=positive_int, help="segments of a step (default: the configuration's)")
    parser.add_argument("--rounds", type=positive_int, default=10, help="measured steps of each variant (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), help="default: all but the compiled ones")
    parser.add_argument("--compile", action="store_true", help="the compiled variants too")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")


def run(arguments):
    """Prints a table; returns an exit status.

    Raises:
        OSError, InputError: the configuration cannot be used.
    """
    config = load_config(arguments.config)
    training = config.training.model_copy(update={"batch_size": arguments.batch_size or config.training.batch_size})
    config = config.model_copy(update={"training": training})
    names = arguments.variants or [name for name in VARIANTS if arguments.compile or not name.startswith("compiled")]
    threads = torch.get_num_threads()
    machine = platform.processor() or platform.machine()
    print(f"{arguments.config}, torch {torch.__version__}, {machine}, {threads} threads")
    lines = memory_table(config, names) if arguments.memory else speed_table(config, names, arguments.rounds)
    print("\n".join(lines))
    return 0


def speed_table(config, names, rounds):
    names = list(dict.fromkeys([REFERENCE, *names]))
    batch_size = config.training.batch_size
    seconds = time_variants(config, names, rounds)
    lines = [
        f"batch {batch_size} x {config.data.segment_frames * config.mel.hop_length} samples, {rounds} steps of each in turn",
        "",
        "| variant | seconds per step (median, range) | samples/s | against plain fp32 |",
        "|---|---|---|---|",
    ]
    for name in names:
        median = statistics.median(seconds[name])
        ratio = statistics.median(a / b for a, b in zip(seconds[REFERENCE], seconds[name]))
        spread = f"{min(seconds[name]):.3f} to {max(seconds[name]):.3f}"
        lines.append(f"| {name} | {median:.3f} ({spread}) | {batch_size / median:.1f} | {ratio:.2f} |")
    return lines


def memory_table(config, names):
    samples = config.data.segment_frames * config.mel.hop_length
    lines = [
        f"segments of {samples} samples; tensors alive at the peak of a step, without the library's workspaces",
        "",
        f"| variant | fixed, GB | each segment, MB | batch {CLAIM_BATCH}, GB | fits {CLAIM_BYTES / GIGABYTE:.0f} GB |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        fixed, per_sample = memory_of_step(name, config)
        whole = fixed + CLAIM_BATCH * per_sample
        fits = "yes" if whole < CLAIM_BYTES else "no"
        lines.append(f"| {name} | {fixed / GIGABYTE:.3f} | {per_sample / 1e6:.2f} | {whole / GIGABYTE:.2f} | {fits} |")
    return lines
