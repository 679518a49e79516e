"""What needs a CUDA GPU, in a process that sees it; and what every network must do on a device that is not the CPU."""

import copy
import json
import os
import re

import pytest
import soundfile
import torch
import torch.nn.functional as F

from common.audio import signal_to_noise
from common.device import autocast, exact_float32, pick_device
from common.released import CHECKPOINT
from common.released import SCHEDULE as RELEASED_SCHEDULE
from extensions.interop.published import load_published
from extensions.registry import make_network, make_pipeline
from extensions.streaming import SynthesisStream
from model.config import load_config
from model.fast_layers import _upsample_by_neighbours
from model.noise_schedule import NoiseSchedule
from model.samplers import SAMPLERS
from tests.conftest import ON_GPU, ROOT, VISIBLE_GPUS, golden
from tests.processes import PYTHON, run_to_end

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])
DEVICE, N_STEPS = ("cuda", 60) if ON_GPU else ("cpu", 6)  # the CPU rehearses
GPU, REHEARSED = pytest.mark.gpu, pytest.mark.gpu(rehearsed=True)
INFER_GRAD = {"noise_schedule": str(RELEASED_SCHEDULE), "weight": 0.5}
ADVERSARIAL = {"windows": [512, 256], "periods": [2, 3], "channels": 8}


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
CONFIGS = {path.stem: load_config(path) for path in sorted((ROOT / "configs").glob("*.json"))}
ON_META = {name: config for name, config in CONFIGS.items() if getattr(config.prior, "kind", None) != "spectral"}
for name in ("ivanvovk_tiny.pt", "lmnt_tiny.pt"):
    ON_META[name] = load_published(golden(name)["state_dict"], name)[1]


@pytest.mark.parametrize("config", ON_META.values(), ids=ON_META)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_configuration_vocodes_on_another_device(config, sampler):
    """On the meta device, which computes shapes alone. Fails if a tensor of the computation is made on the CPU."""
    with torch.device("meta"):
        network = make_network(config).eval()
    stream = SynthesisStream(make_pipeline(network, config, SCHEDULE, sampler))
    waveform = stream.push(torch.zeros(config.mel.n_mels, 12, device="meta"), last=True)
    assert waveform.is_meta and waveform.shape == (12 * config.mel.hop_length,)


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
def test_a_gpu_computes_the_same_gradient_twice(tiny_network):
    """In half precision: fails if gradients are added up in another order every time."""
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        x = torch.randn(2, 8, 1, 50, device="cuda", dtype=torch.float16, requires_grad=True)
        first, second = (torch.autograd.grad(_upsample_by_neighbours(x, 5).float().square().sum(), x)[0] for _ in range(2))
        assert torch.equal(first, second)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "dtype, least",
    [
        pytest.param(torch.float32, 90, marks=GPU),
        pytest.param(torch.bfloat16, 20, marks=REHEARSED),
        pytest.param(torch.float16, 38, marks=GPU),
    ],
)
@pytest.mark.parametrize("name", ["default", "universal-22k"])
@torch.inference_mode()
def test_a_network_call_is_that_of_the_cpu(name, dtype, least):
    """In each precision, in dB."""
    device, config = pick_device(DEVICE), CONFIGS[name]
    exact_float32()
    torch.manual_seed(0)
    network = make_network(config).eval()
    torch.nn.init.normal_(network.output_conv.weight, std=0.1)  # it may begin at zero
    arguments = torch.randn(2, 40 * network.hop_length), torch.randn(2, config.mel.n_mels, 40) - 1, torch.tensor([0.3, 0.9]).double()
    expected, network = network(*arguments), copy.deepcopy(network).to(device)
    with autocast(device, dtype):
        ratio = signal_to_noise(expected, network(*(tensor.to(device) for tensor in arguments)))
    print(f"{ratio:.0f} dB to the CPU")
    assert ratio >= least


def vocoded(output, n_mels, *options):
    """The waveforms of `inference.py` by the names of their files."""
    (output / "in").mkdir(parents=True)
    for path in sorted((ROOT / "generated_samples" / "voices").glob("*.npy"))[:n_mels]:
        (output / "in" / path.name).write_bytes(path.read_bytes())
    command = [PYTHON, "inference.py", "-ch", CHECKPOINT, "-ns", RELEASED_SCHEDULE, "-m", output / "in", "-o", output, *options]
    result = run_to_end(*command, env=os.environ, timeout=600)
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    return [torch.from_numpy(soundfile.read(path)[0]) for path in sorted(output.glob("*.wav"))]


@pytest.mark.parametrize(
    "options, least",
    [
        pytest.param("--dtype bfloat16", 15, marks=REHEARSED),
        pytest.param("--dtype float16", 30, marks=GPU),
        pytest.param("--dtype float32 --batch_size 3 --chunk_frames 50", 30, marks=GPU),
        pytest.param("--gla_grad 8", None, marks=GPU),
        pytest.param("--compile", None, marks=GPU),
    ],
)
def test_inference_is_that_of_the_cpu(options, least, tmp_path):
    """In dB, where the options leave the waveform what it is."""
    n_mels = 3 if ON_GPU else 1
    found = vocoded(tmp_path / "found", n_mels, "--device", DEVICE, *options.split())
    assert len(found) == n_mels
    if least is not None:
        expected = vocoded(tmp_path / "expected", n_mels, "--device", "cpu", "--dtype", "float32")
        ratio = min(map(signal_to_noise, expected, found))
        print(f"{ratio:.0f} dB to the CPU")
        assert ratio >= least


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"precision": "bf16", "micro_batch_size": 1, "activation_checkpointing": True}, marks=REHEARSED, id="bf16-portions"),
        pytest.param({"precision": "fp32"}, marks=GPU, id="fp32"),
        pytest.param({"precision": "bf16", "compile": True}, marks=GPU, id="compiled"),
        pytest.param({"precision": "fp16", "infer_grad": INFER_GRAD}, marks=GPU, id="fp16-infergrad"),
        pytest.param({"precision": "bf16", "infer_grad": INFER_GRAD | {"adversarial": ADVERSARIAL}}, marks=GPU, id="bf16-adversarial"),
    ],
)
def test_training_learns_and_resumes(changes, tmp_path, write_recording):
    """A small network by the real command."""
    config = json.loads((ROOT / "configs" / "small-16k.json").read_text())
    for name in ("train", "validation"):
        write_recording(tmp_path / f"{name}.wav", seconds=2, sample_rate=16000)
        (tmp_path / f"{name}.txt").write_text(f"{name}.wav\n")
    lists = {"train_filelist": "train.txt", "validation_filelist": "validation.txt"}
    config["data"] = lists | {"segment_frames": 32 if ON_GPU else 8, "n_workers": 0}
    for part, channels in (("upsampling", 24), ("downsampling", 12)):
        config["network"][f"{part}_preconv_channels"] = channels
        config["network"][f"{part}_channels"] = [channels] * len(config["network"][f"{part}_channels"])
    config["training"] |= {"batch_size": 4, "n_steps": N_STEPS, "warmup_steps": 5, "log_every": 1, "n_previews": 1, "stages": None}
    config["training"] |= {"validate_every": N_STEPS, "save_every": N_STEPS // 2, "infer_grad": None} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [PYTHON, "train.py", "-c", tmp_path / "config.json", "-l", tmp_path / "log"]
    result = run_to_end(*command, env=os.environ, timeout=600)
    losses = [float(text) for text in re.findall(r"^step \d+  loss ([\d.]+)", result.stdout, re.M)]
    print(losses)
    assert result.returncode == 0 and len(losses) == N_STEPS, result.stderr
    assert not ON_GPU or sum(losses[-10:]) < sum(losses[:10])  # a rehearsal is too short for that
    max((tmp_path / "log").glob("checkpoint-*.pt")).unlink()
    assert "going on from" in run_to_end(*command, env=os.environ, timeout=600).stdout
