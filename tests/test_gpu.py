"""What needs a CUDA GPU, in a process that sees it; and what every network must do on a device that is not the CPU."""

import os

import pytest
import torch
import torch.nn.functional as F

from common.device import exact_float32
from extensions.interop.published import load_published
from extensions.registry import make_network, make_pipeline
from extensions.streaming import SynthesisStream
from model.config import load_config
from model.fast_layers import _upsample_by_neighbours
from model.noise_schedule import NoiseSchedule
from model.samplers import SAMPLERS
from tests.conftest import DATA, ROOT, VISIBLE_GPUS
from tests.processes import PYTHON, run_to_end
from vocoder import Vocoder

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])


def environment_with_gpus():
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return environment if VISIBLE_GPUS is None else environment | {"CUDA_VISIBLE_DEVICES": VISIBLE_GPUS}


def test_what_is_marked_gpu():
    environment = environment_with_gpus()
    count = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    if run_to_end(PYTHON, "-c", count, env=environment).stdout.strip() in ("", "0"):
        pytest.skip("no GPU on this machine")
    command = [PYTHON, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    result = run_to_end(*command, env=environment | {"WAVEGRAD_TESTS": "gpu"}, timeout=None)
    assert result.returncode == 0, result.stdout + result.stderr


# The meta device has no inverse of the short-time spectrum, which the spectral prior needs.
ON_META = [path for path in sorted((ROOT / "configs").glob("*.json")) if getattr(load_config(path).prior, "kind", None) != "spectral"]


@pytest.mark.parametrize("path", ON_META, ids=lambda path: path.stem)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_configuration_vocodes_on_another_device(path, sampler):
    """On the meta device, which computes shapes alone. Fails if a tensor of the computation is made on the CPU."""
    config = load_config(path)
    with torch.device("meta"):
        network = make_network(config).eval()
    stream = SynthesisStream(make_pipeline(network, config, SCHEDULE, sampler))
    waveform = stream.push(torch.zeros(config.mel.n_mels, 12, device="meta"), last=True)
    assert waveform.is_meta and waveform.shape == (12 * config.mel.hop_length,)


@pytest.mark.parametrize("name", ["ivanvovk_tiny.pt", "lmnt_tiny.pt"])
def test_published_networks_vocode_on_another_device(golden, name):
    weights, config = load_published(golden(name)["state_dict"], DATA / name)
    network = make_network(config).eval().to("meta")
    mel = torch.zeros(config.mel.n_mels, 12, device="meta")
    assert SynthesisStream(make_pipeline(network, config, SCHEDULE)).push(mel, last=True).is_meta


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_upsampling_by_neighbours_is_linear_interpolation(factor):
    """Values and gradients, at the ends too, and in channels-last memory."""
    x = torch.randn(2, 3, 1, 11, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    expected = F.interpolate(x, size=(1, 11 * factor), mode="bilinear", align_corners=False)
    found = _upsample_by_neighbours(x, factor)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x, retain_graph=True) for y in (found, expected)))


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(tiny_network, tiny_config):
    exact_float32()
    mels = [torch.randn(20, frames, generator=torch.Generator().manual_seed(frames)) - 4 for frames in (30, 45)]
    found = [
        list(Vocoder(tiny_network, tiny_config, SCHEDULE, device, torch.float32, chunk_frames=20).stream(mels))
        for device in ("cpu", "cuda")
    ]
    for (i, on_cpu), (j, on_gpu) in zip(*found):
        assert i == j
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=0)


@pytest.mark.gpu
def test_a_gpu_computes_the_same_gradient_twice(tiny_network):
    """In half precision: fails if gradients are added up in another order every time."""
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        x = torch.randn(2, 8, 1, 50, device="cuda", dtype=torch.float16, requires_grad=True)
        first, second = (torch.autograd.grad(_upsample_by_neighbours(x, 5).float().square().sum(), x)[0] for _ in range(2))
        assert torch.equal(first, second)
    finally:
        torch.use_deterministic_algorithms(False)
