"""Memory of tensors, counted tensor by tensor, so that it can be measured without a GPU and foreseen on a CPU."""

import contextlib
import os
import weakref
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from common.errors import InputError
from training.explained import explained_out_of_memory

GIGABYTE = 1e9
MARGIN, WORKSPACE = 1.2, 0.5e9  # what processes took at most beside the counted tensors: convolutions' workspaces, the allocator's rest
CGROUP = Path("/sys/fs/cgroup")  # the limits of a container


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that operations made and that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.known = set()
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        # What goes in and was not made here was there before.
        for tensor in self._tensors((arguments, keywords)):
            if tensor.untyped_storage()._cdata not in self.known:
                self._watch(tensor.untyped_storage(), 0)
        result = function(*arguments, **(keywords or {}))
        for tensor in self._tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self._watch(storage, storage.nbytes())
        return result

    def _tensors(self, tree):
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided]

    def _watch(self, storage, n_bytes):
        key = storage._cdata
        self.known.add(key)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, n_bytes)

    def _forget(self, key, n_bytes):
        self.known.discard(key)
        self.live -= n_bytes


def peak_live_bytes(function):
    """Calls a function; returns the bytes that its new tensors, its autograd graph's among them, took at their peak."""
    with _LiveStorages() as storages:
        function()
    return storages.peak


def free_bytes():
    """Memory that this process can still have on this machine; None where the system does not tell (it is not Linux)."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        free = min(free, int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    return free


def portion_size(trainer, stage):
    """Number of examples that a process has in memory at once in a stage."""
    training = stage.config.training
    share = -(-training.batch_size // trainer.world_size)
    return min(training.micro_batch_size or share, share)


def step_bytes(trainer, stage):
    """Additional memory of a process in a training step of a stage on a CPU, in bytes, estimated from portions of one and two examples.

    It is that of the longest schedule that the stage may draw, with the gradient and the optimiser's state, which the first step makes.
    """
    position, trainer.step = trainer.step, stage.first
    examples = [trainer.examples[number] for number in range(2)]
    parameters = list(trainer.network.parameters())

    def backward(n):
        batch = default_collate(examples[:n])
        objective = trainer.losses(trainer.network, batch).sum()
        if trainer.infer_grad_loss:
            schedule = trainer.infer_grad_loss.longest_schedule
            objective = objective + trainer.inference(trainer.network, batch, schedule).losses.sum()
        torch.autograd.grad(objective, parameters)

    trainer.network.train()
    one, two = (peak_live_bytes(lambda n=n: backward(n)) for n in (1, 2))
    trainer.step = position
    persistent = 3 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)  # gradient, two moments of Adam
    return MARGIN * (persistent + one + (two - one) * (portion_size(trainer, stage) - 1)) + WORKSPACE


def check_memory(trainer):
    """Refuses a run whose steps do not fit into memory, instead of having the kernel kill it; returns lines to say.

    Raises:
        InputError: names the keys to change.
    """
    free = free_bytes()
    if trainer.device.type != "cpu" or free is None:
        return []
    with explained_out_of_memory(trainer.config.training):
        needed = max(step_bytes(trainer, stage) for stage in trainer.stages)
    if needed * int(os.environ.get("LOCAL_WORLD_SIZE", trainer.world_size)) > free:
        raise InputError(
            f"a training step needs about {needed / GIGABYTE:.1f} GB in each process, but {free / GIGABYTE:.1f} GB are free (wanted: "
            f"a smaller training.micro_batch_size, now {trainer.config.training.micro_batch_size}, or training.activation_checkpointing)"
        )
    return [f"estimated memory of a step: {needed / GIGABYTE:.2f} GB in each process, {free / GIGABYTE:.1f} GB are free"]
