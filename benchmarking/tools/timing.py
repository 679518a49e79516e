"""Timing what takes turns; peak memory, the device's name, and the peak rate of a matrix product."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.device import synchronized_time
from common.memory import peak_resident_bytes
from model.config import MelConfig
from model.noise_schedule import NoiseSchedule, linear


def reset_peak_memory(device):
    """Starts `peak_memory` anew. On a CPU this needs Linux; elsewhere the peak is that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident set
    except OSError:
        pass


def peak_memory(device):
    """Bytes: allocated on a GPU, resident on a CPU, at most since `reset_peak_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def device_name(device):
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "CPU"


def machine(device):
    """Device, threads and PyTorch, as tables name them."""
    return f"{device_name(device)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"


def matmul_peak(device, dtype, size=2048, repeats=20):
    """Operations per second of a square matrix product, the best of many: what no convolution can be expected to pass."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    seconds = []
    for _ in range(repeats):
        start = synchronized_time(device)
        a @ b
        seconds.append(synchronized_time(device) - start)
    return 2 * size**3 / min(seconds)


@dataclass
class Timings:
    """Of one variant: the real-time factor of each run, and the largest memory of all runs, in bytes."""

    factors: list = field(default_factory=list)
    memory: int = 0


@dataclass
class Timed:
    """What is timed: a function (mels, schedule), its schedule, its batches, lists of mels `[n_mels, frames]`, and their `MelConfig`."""

    synthesize: Callable
    schedule: NoiseSchedule
    batches: list
    mel_config: MelConfig

    def warm_up(self):
        for frames in (100, 1000):  # two lengths: a compiled network is compiled for any length then
            self.synthesize([mel[:, :frames] for mel in self.batches[0]], self.schedule)

    def run(self, i):
        self.synthesize(self.batches[i], self.schedule)

    def duration(self, i):
        """Seconds of audio in batch i."""
        return sum(mel.shape[1] for mel in self.batches[i]) * seconds_per_frame(self.mel_config)

    def total_duration(self):
        return sum(map(self.duration, range(len(self.batches))))


def seconds_per_frame(mel_config):
    return mel_config.hop_length / mel_config.sample_rate


def any_schedule(n_steps):
    """A schedule of so many steps; what the betas are makes no difference to the time."""
    return linear(n_steps, 1e-6, 0.01)


def measure(timed, repeats, device):
    """Times all in turn on each batch, after a warm-up.

    Args:
        timed: name -> `Timed`, all with as many batches.

    Returns:
        name -> `Timings`, the n-th factor of each made at about the same time.
    """
    results = {name: Timings() for name in timed}
    for one in timed.values():
        one.warm_up()
    for i in [*range(len(next(iter(timed.values())).batches))] * repeats:
        for name, one in timed.items():
            reset_peak_memory(device)
            start = synchronized_time(device)
            one.run(i)
            results[name].factors.append((synchronized_time(device) - start) / one.duration(i))
            results[name].memory = max(results[name].memory, peak_memory(device))
    return results
