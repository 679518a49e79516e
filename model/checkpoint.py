"""Checkpoints: training states in `.pt`, released weights in `.safetensors`, each with its configuration.

A training state is a dictionary of `network`, `ema`, `optimizer`, `lr_scheduler`, `step`, `config` (JSON text); released
weights are the EMA alone, with the configuration as metadata.
"""

import os
import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from model.config import parse_config
from model.errors import InputError
from model.network import WaveGrad


def save_atomically(write, path):
    """Calls `write(temporary_path)` and renames the result to `path`: `path` is always whole, and survives a power cut."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder):
    """Makes a rename durable, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_training_state(path):
    """Reads a training state written by `train.py`.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is damaged or not a training state.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower():
            raise InputError(f"{path}: holds more than plain tensors, so it is not opened") from None
        raise InputError(f"{path}: not a checkpoint, or a damaged one") from None
    if not isinstance(state, dict) or "config" not in state or "ema" not in state:
        raise InputError(f"{path}: not a checkpoint of this project (wanted: keys 'config' and 'ema')")
    return state


def save_weights(network, config, path):
    """Writes a network's weights as safetensors, with its configuration as metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"config": config.model_dump_json()}
    content = safetensors.torch.save(tensors, metadata)
    save_atomically(lambda temporary: temporary.write_bytes(content), path)


def _read(path):
    """Returns the weights and the configuration text of a checkpoint of either kind."""
    path = Path(path)
    if path.suffix != ".safetensors":
        state = load_training_state(path)
        return state["ema"], state["config"]
    if not path.is_file():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError:
        raise InputError(f"{path}: not a safetensors file, or a damaged one") from None
    if "config" not in metadata:
        raise InputError(f"{path}: carries no configuration (wanted: metadata 'config')")
    return tensors, metadata["config"]


def load_network(path, config=None):
    """Loads a network for inference from a checkpoint: the EMA weights, in evaluation mode.

    Args:
        path: a training state or released weights.
        config: a `Config` that the checkpoint must agree with in network and mel.

    Returns:
        the network and the checkpoint's `Config`.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is damaged, or its architecture or mel definition is another.
    """
    weights, config_text = _read(path)
    own_config = parse_config(config_text, f"{path} (configuration in the checkpoint)")
    if config is not None:
        check_same(own_config, config, path)
    network = WaveGrad(own_config.network, own_config.mel.n_mels)
    load_strictly(network, weights, path)
    return network.eval(), own_config


def load_strictly(network, weights, path):
    """Loads weights into a network.

    Raises:
        InputError: a name or shape differs; the message names the first difference.
    """
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise InputError(f"{path}: weight '{name}' is missing (wanted: {list(tensor.shape)})")
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"{path}: weight '{name}' has shape {list(weights[name].shape)} (wanted: {list(tensor.shape)})"
            )
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise InputError(f"{path}: unknown weight '{unknown[0]}', {len(unknown)} in all")
    network.load_state_dict(weights)


def check_same(found, wanted, path):
    """Refuses a checkpoint whose network or mel definition is not the wanted one.

    Raises:
        InputError: names the first key that differs, with both values.
    """
    for section in ("network", "mel"):
        ours, theirs = getattr(wanted, section).model_dump(), getattr(found, section).model_dump()
        for key, value in ours.items():
            if theirs[key] != value and key != "zero_output":
                raise InputError(f"{path}: {section}.{key} is {theirs[key]} (wanted by the configuration: {value})")
