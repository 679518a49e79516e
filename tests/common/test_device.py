"""Devices are those that exist and that PyTorch can use; what is wrong with them is one line."""

import pytest
import torch

from common.device import pick_device, unusable_gpus
from common.errors import InputError
from common.jobs import torchrun_place

NO_NAMES = ["nonsense", "", "cuda:-1", "cuda:99999999999999999999", "meta", "xla", "CPU", "cpu:0\n", "cuda:0:0"]
WORDS = dict.fromkeys(NO_NAMES, "--device.*expected: cpu, cuda, cuda:N or mps")
WORDS |= {name: f"--device {name}: not available" for name in ("cuda:7", "mps")}


@pytest.mark.parametrize("name, words", WORDS.items())
def test_what_is_no_device_here_is_one_line(name, words):
    with pytest.raises(InputError, match=words) as error:
        pick_device(name)
    assert "\n" not in str(error.value)
    assert pick_device() == pick_device("cpu") == torch.device("cpu")


def test_a_driver_that_is_too_old_is_said(gpus):
    """Fails if eight GPUs that cannot be used are eight processes on the CPU."""
    gpus(8, usable=False)
    assert "8 GPUs are there, but their driver is too old" in unusable_gpus()
    for name in (None, "cuda", "cuda:1"):
        with pytest.raises(InputError, match="driver is too old"):
            pick_device(name)
    assert pick_device("cpu") == torch.device("cpu")


def test_an_architecture_that_pytorch_was_not_built_for_is_one_line(gpus, monkeypatch):
    def no_kernel(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be")

    gpus(1)
    monkeypatch.setattr(torch, "zeros", no_kernel)
    with pytest.raises(InputError, match="--device cuda: not available .CUDA error: no kernel image is available .* device.$"):
        pick_device()


def test_cuda_under_torchrun_is_this_processs_card(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    for name, value in {"RANK": "6", "LOCAL_RANK": "2", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert torchrun_place() == (0, 0, 1)  # left over from something else
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert torchrun_place() == (6, 2, 8)
    assert pick_device("cuda") == pick_device() == torch.device("cuda:2")
    assert pick_device("cuda:1") == torch.device("cuda:1")
