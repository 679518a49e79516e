"""Where to compute, and in which precision."""

import contextlib
import re
import time
import warnings

import torch

from common.errors import InputError, shortened
from common.jobs import device_of_job, torchrun_place

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fastest_dtype(device):
    """The fastest precision that a device computes in natively: bfloat16 where there is hardware for it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


def finest_float(device):
    """The most precise float of a device: float64, but on Apple's GPUs float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def autocast(device, dtype):
    """A context in which a network computes in `dtype`, one of `DTYPES`."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextlib.contextmanager
def own_defaults():
    """A context, and a decorator, in which tensors are made in float32 on the CPU unless a call says otherwise.

    The program around may have set other defaults, which are its own again afterwards.
    """
    dtype, device = torch.get_default_dtype(), torch.empty(0).device
    if (dtype, device.type) == (torch.float32, "cpu"):
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def synchronized_time(device):
    """Seconds of a steady clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def exact_float32():
    """Switches TF32 off on GPUs, so that float32 means float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def unusable_gpus():
    """Why PyTorch cannot compute on the GPUs that are there, in one line; None if it can, or if there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says the same in several lines
        if torch.cuda.device_count() == 0 or torch.cuda.is_available():
            return None
    return (
        f"{torch.cuda.device_count()} GPUs are there, but their driver is too old for this PyTorch, built for CUDA {torch.version.cuda} "
        "(expected: a newer driver, or an older PyTorch; on the CPU: CUDA_VISIBLE_DEVICES= )"
    )


def pick_device(name=None):
    """The device of a name, or a GPU if there is one; `cuda` is the card of this process where torchrun started several.

    Raises:
        InputError: there is no such device, or PyTorch cannot use it.
    """
    if name is None:
        name = "cuda" if torch.cuda.device_count() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?|mps", name):
        raise InputError(f"--device: '{shortened(name)}' (expected: cpu, cuda, cuda:N or mps)")
    if name.startswith("cuda") and (problem := unusable_gpus()):
        raise InputError(f"--device {name}: {problem}")
    try:
        device = torch.device(device_of_job(name, torchrun_place()[1]))
        torch.zeros(1, device=device)  # runs on it: PyTorch may not be built for the architecture of the card
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available ({str(error).splitlines()[0]})") from None
    return device
