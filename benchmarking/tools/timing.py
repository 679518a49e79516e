"""Peak memory, the device's name, and the peak rate of a matrix product."""

from pathlib import Path

import torch

from common.device import synchronized_time


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
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
