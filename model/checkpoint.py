"""Checkpoints: training states in `.pt`, released weights in `.safetensors`, each with its configuration.

A training state is a dictionary of `network`, `ema`, `optimizer`, `step`, `config` (JSON text); released weights are the EMA alone,
with the configuration and a digest of all as metadata. Either may hold `mel_statistics` (JSON text) and `starts` beside the
configuration.

`python -m runs.convert IN OUT` writes any of these as released weights.
"""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

import safetensors
import safetensors.torch
import torch
from torch import nn

from common.errors import InputError, shortened
from common.files import checked, reading, save_atomically
from common.released import SCHEDULE
from model.config import Config, parse_config
from model.mel import MelStatistics, parse_mel_statistics
from model.noise_schedule import NoiseSchedule

MOST_DIFFERENCES = 12  # listed in one message


def _load_plain_tensors(path):
    """The content of a file written by `torch.save`; a file with anything but plain tensors and values is refused."""
    with reading(path, "a checkpoint"), open(path, "rb") as file:
        try:
            return torch.load(checked(file), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "weights_only" in str(error).lower():
                raise InputError(f"{path}: holds more than plain tensors, so it is not opened") from None
            raise


def _is_training_state(content):
    return isinstance(content, dict) and "config" in content and "ema" in content


def load_training_state(path) -> dict:
    """Reads a training state written by `train.py`.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is damaged or not a training state.
    """
    state = _load_plain_tensors(path)
    if not _is_training_state(state):
        raise InputError(f"{path}: not a checkpoint of this project (expected: keys 'config' and 'ema')")
    return state


def save_weights(network: nn.Module, config: Config, path, mel_statistics: Optional[MelStatistics] = None, dtype=None, starts=None):
    """Writes a network's weights as safetensors, in `dtype` if it is given, with what a `Checkpoint` has beside them as metadata."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": "pt", "config": config.model_dump_json()}
    if mel_statistics is not None:
        metadata["mel_statistics"] = mel_statistics.model_dump_json()
    if starts is not None:
        metadata["starts"] = starts
    metadata["digest"] = _digest(tensors, metadata)
    content = safetensors.torch.save(tensors, metadata)
    save_atomically(lambda temporary: temporary.write_bytes(content), path)


def _digest(tensors, metadata):
    """SHA-256 of the tensors of a safetensors file, in the order of their names, and of its metadata, the digest left out."""
    digest = hashlib.sha256(repr(sorted((key, text) for key, text in metadata.items() if key != "digest")).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Checkpoint(NamedTuple):
    """The content of a checkpoint for inference: weights by name, their configuration, mel statistics if there are any, and starts.

    The starts are what sampling was trained to start from: "noise", "estimate" (`extensions/griffin_lim`), both, or None: unknown.
    """

    weights: dict
    config: Config
    mel_statistics: Optional[MelStatistics]
    starts: Optional[str] = None


def starts_of(schedules):
    """The starts of a `Checkpoint` that InferGrad trained with `NoiseSchedule`s; without any, the diffusion loss trained it from noise."""
    return ",".join(sorted({schedule.start for schedule in schedules})) or "noise"


def _starts_of_config(config):
    """The same of a file from before it said so; None where the configuration names a schedule that is not among the released ones."""
    training = config.training
    last = training.stages[-1].infer_grad if training.stages else None
    infer_grad = training.infer_grad if last is None else last
    paths = infer_grad.noise_schedule if infer_grad else ()
    paths = [SCHEDULE.parent / Path(path).name for path in ([paths] if isinstance(paths, str) else paths)]
    return starts_of(map(NoiseSchedule.load, paths)) if all(path.is_file() for path in paths) else None


def schedule_warnings(schedule: NoiseSchedule, starts: Optional[str]) -> list:
    """Lines on why a `NoiseSchedule` is none for weights of those starts."""
    lines = [schedule.warning] if schedule.warning else []
    if starts is None or schedule.start in starts.split(","):
        return lines
    names = {"noise": "noise", "estimate": "an estimate by Griffin-Lim"}
    lines.append(
        f"noise schedule {schedule.name} starts from {names[schedule.start]}, and the weights were not trained for that (expected: one "
        f"that starts from {names[starts]}, {'without' if starts == 'noise' else 'with'} griffin_lim)"
    )
    return lines


def read_checkpoint(path, config: Optional[Config] = None, load_other: Optional[Callable] = None) -> Checkpoint:
    """Reads weights for inference: released ones, the EMA of a training state, or those of a public project.

    Args:
        path: the file.
        config: a `Config` that the checkpoint must agree with in network, mel and prior. For a public project's file the factors and
            dilations are taken from it, because the weights do not show them.
        load_other: reads what a `.pt` of another project holds: `load_other(content, path, config)` returns weights and `Config`, or None
            where it does not know the file.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is damaged, or its architecture or mel definition is another.
    """
    weights, metadata = _read_safetensors(path) if Path(path).suffix.lower() == ".safetensors" else (None, {})
    if weights is None:
        content = _load_plain_tensors(path)
        if _is_training_state(content):
            weights, metadata = content["ema"], content
        elif load_other and (found := load_other(content, path, config)):
            weights, own_config = found
        else:
            raise InputError(f"{path}: expected a checkpoint of this project (keys 'config' and 'ema') or of another WaveGrad, got neither")
    _check_weights(weights, path)
    for key in ("config", "mel_statistics", "starts"):
        if not isinstance(metadata.get(key, ""), str):
            raise InputError(f"{path}: '{key}' is a {type(metadata[key]).__name__} (expected: text)")
    if metadata:
        own_config = parse_config(metadata["config"], f"{path} (configuration in the checkpoint)")
    if config is not None:
        check_same(own_config, config, path)
    statistics = metadata.get("mel_statistics")
    if statistics is not None:
        statistics = parse_mel_statistics(statistics, own_config.mel.n_mels, f"{path} (mel statistics in the checkpoint)")
    starts = metadata.get("starts")
    if starts not in (None, "noise", "estimate", "estimate,noise"):
        raise InputError(f"{path}: starts is '{shortened(starts)}' (expected: noise, estimate, or estimate,noise)")
    return Checkpoint(weights, own_config, statistics, starts or _starts_of_config(own_config))


def _check_weights(weights, path):
    """Raises an `InputError` if the weights are no dictionary of dense tensors of floating-point numbers by name."""
    if not isinstance(weights, dict):
        raise InputError(f"{path}: the weights are a {type(weights).__name__} (expected: a dictionary of tensors by name)")
    for name, tensor in weights.items():
        kind = f"a {type(tensor).__name__}"
        if torch.is_tensor(tensor):
            if tensor.layout == torch.strided and tensor.is_floating_point() and not (tensor.is_meta or tensor.is_nested):
                continue
            kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
        raise InputError(f"{path}: weight '{shortened(name)}' is {kind} (expected: a dense tensor of floating-point numbers)")


def _read_safetensors(path):
    """Returns the tensors of a safetensors file by name, and its metadata."""
    path = Path(path)
    listed = path.parent / "SHA256SUMS"  # as sha256sum writes it
    lines = [line.split(maxsplit=1) for line in listed.read_text().splitlines()] if listed.is_file() else []
    sums = [digest for digest, *name in lines if name == [path.name]]
    if sums and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() not in sums:
        raise InputError(f"{path}: the SHA-256 is not that in {listed}: damaged, or another file of that name")
    with reading(path, "a safetensors file"), safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        is_whole = metadata.get("digest") in (None, _digest(tensors, metadata))  # files from before there was one have none
    if not is_whole:
        raise InputError(f"{path}: the digest is not that of the weights: damaged, or changed by another program")
    if "config" not in metadata:
        raise InputError(f"{path}: carries no configuration (expected: metadata 'config')")
    return tensors, metadata


def weight_differences(network: nn.Module, weights: dict) -> dict:
    """Differences between a network's weights and given ones: name -> description; empty if they fit."""
    expected = network.state_dict()
    missing = {name: f"weight '{name}' is missing (expected: {list(expected[name].shape)})" for name in expected if name not in weights}
    unknown = {name: f"unknown weight '{name}'" for name in sorted(set(weights) - set(expected))}
    other_shapes = {
        name: f"weight '{name}' has shape {list(weights[name].shape)} (expected: {list(tensor.shape)})"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    }
    return missing | unknown | other_shapes


def listed(differences):
    """The first `MOST_DIFFERENCES` of several differences as one text, with the number of the others."""
    first, more = list(differences)[:MOST_DIFFERENCES], len(differences) - MOST_DIFFERENCES
    return "; ".join(first) + (f"; and {more} more" if more > 0 else "")


def load_strictly(network: nn.Module, weights: dict, path):
    """Loads weights into a network.

    Raises:
        InputError: names or shapes differ; the message lists the differences.
    """
    differences = weight_differences(network, weights)
    if differences:
        raise InputError(f"{path}: {listed(differences.values())}")
    network.load_state_dict(weights)


def check_same(found: Config, expected: Config, path):
    """Refuses a checkpoint whose network, mel definition or prior is not the expected one.

    Raises:
        InputError: names the first key that differs, with both values.
    """
    for section in ("network", "mel"):
        ours, theirs = getattr(expected, section).model_dump(), getattr(found, section).model_dump()
        for key, value in ours.items():
            if theirs[key] != value and key != "zero_output":
                raise InputError(f"{path}: {section}.{key} is {theirs[key]} (expected by the configuration: {value})")
    if found.prior != expected.prior:
        raise InputError(f"{path}: prior is {found.prior!r} (expected by the configuration: {expected.prior!r})")
