"""Mels from outside, from files and from callers: converted to what the network takes, or refused."""

from pathlib import Path

import numpy as np
import torch

from common.errors import InputError, naming, shortened
from common.files import checked, reading

MEL_SUFFIXES = {".npy", ".pt"}


def as_mel(mel, n_mels, fewest_frames=1):
    """A mel of any precision, as a tensor or a NumPy array, `[n_mels, frames]` or `[1, n_mels, frames]`.

    Returns:
        `[n_mels, frames]`, float32, on the device it was on.

    Raises:
        InputError: it is no array of real numbers, has another shape, is too short, or holds NaN or infinity.
    """
    if type(mel) in (np.ndarray, np.memmap) and mel.dtype.kind in "fiu":  # a masked array has a meaning of its own
        mel = torch.from_numpy(mel.astype(np.float64 if mel.dtype.itemsize > 8 else mel.dtype.newbyteorder("="), order="C"))
    elif not torch.is_tensor(mel):
        kind = f"an array of {mel.dtype}" if type(mel) is np.ndarray else f"a {type(mel).__name__}"
        raise InputError(f"mel is {shortened(kind)} (wanted: one tensor or array of real numbers)")
    if mel.layout != torch.strided or mel.is_quantized or mel.is_nested or mel.is_complex() or mel.dtype == torch.bool:
        kind = mel.dtype if mel.layout == torch.strided else f"a {mel.layout}"
        raise InputError(f"mel holds {kind} (wanted: real numbers, in a plain dense tensor)")
    shape = list(mel.shape)
    if mel.ndim == 3 and shape[0] == 1:
        mel = mel[0]
    if mel.ndim != 2 or mel.shape[0] != n_mels:
        hint = "; frames along the first axis?" if mel.ndim == 2 and mel.shape[1] == n_mels else ""
        raise InputError(f"mel has shape {shape} (wanted: [{n_mels}, frames] or [1, {n_mels}, frames]{hint})")
    if mel.shape[1] < fewest_frames:
        raise InputError("mel has no frames")
    mel = mel.detach().float()
    if not mel.is_meta and not mel.isfinite().all():  # a meta tensor has no values
        raise InputError("mel holds NaN or infinity")
    return mel


def read_mel(path, n_mels):
    """Reads a log-mel spectrogram from `.npy` or `.pt`.

    Returns:
        `[n_mels, frames]`, float32.

    Raises:
        OSError: the file cannot be read.
        InputError: as `as_mel`, or the file is not one array; the message names it.
    """
    with reading(path, "a file of one plain tensor"), open(path, "rb") as file:
        if Path(path).suffix.lower() == ".npy":
            mel = np.load(file, allow_pickle=False)
        else:
            mel = torch.load(checked(file), map_location="cpu", weights_only=True)
        if torch.is_tensor(mel) and mel.is_meta:
            raise InputError(f"{path}: mel is a meta tensor, which has no values (wanted: real numbers)")
        with naming(path):
            return as_mel(mel, n_mels)  # here, as a small file may hold a tensor that fits into no memory
