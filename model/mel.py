"""Log-mel spectrograms: one definition for training, inference and the checkpoint; mels of callers and files; statistics of mels."""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from common.errors import InputError, naming, shortened, shown
from common.files import checked, reading
from common.validation import validating
from model.config import MelConfig

RANGE_TOLERANCE = 0.01  # rounding of features that were stored in half precision
MEL_SUFFIXES = {".npy", ".pt"}


def log_unit(config: MelConfig) -> float:
    """The unit of the logarithm of a `MelConfig`, before any normalisation, in natural logarithms: 1 for ln, 2.3 for log10."""
    return {"ln": 1.0, "log10": math.log(10), "db": math.log(10) * config.power / 20}[config.log]


def compress(logarithm: Tensor, config: MelConfig) -> Tensor:
    """Natural logarithms of mel values -> features on the scale of a `MelConfig`, of any shape: floor, logarithm and normalisation."""
    if config.clamp == "before":
        logarithm = logarithm.clamp(min=math.log(config.clamp_min))
    features = (logarithm / log_unit(config) - config.mean) / config.std
    return features if config.clip is None else features.clamp(*config.clip)


def expand(features: Tensor, config: MelConfig) -> Tensor:
    """The inverse of `compress`: features -> natural logarithms of mel values, of any shape. It does not restore what was clamped."""
    return (features * config.std + config.mean) * log_unit(config)


class LogMelSpectrogram(nn.Module):
    """Waveform -> log-mel spectrogram with `hop_length` samples per frame, exactly.

    Args:
        config: a `model.config.MelConfig`.
    """

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config
        keys = ("sample_rate", "n_fft", "win_length", "hop_length", "f_min", "f_max", "n_mels", "normalized", "norm", "mel_scale")
        # The offset belongs to the power spectrum, whatever the power of the mel.
        power = 2.0 if config.spectrum_offset else config.power
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty bands, in other words than ours: see `empty_bands`
            self.spectrogram = MelSpectrogram(**{key: getattr(config, key) for key in keys}, power=power, center=False)
        # With "center" a frame is centred on its first sample; the frame that would be centred on the end is left out.
        margin = config.n_fft - config.hop_length
        left = config.n_fft // 2 if config.padding == "center" else margin // 2
        self.context = (left, margin - left)

    def forward(self, waveform: Union[Tensor, np.ndarray]) -> Tensor:
        """`[..., T]` of floats -> `[..., n_mels, T // hop_length]`; samples short of a whole frame at the end are ignored.

        Raises:
            InputError: it holds no floats, or is shorter than half a window.
        """
        if isinstance(waveform, np.ndarray) and waveform.dtype.kind == "f":
            waveform = torch.from_numpy(waveform.astype(np.float32, order="C"))
        if not (torch.is_tensor(waveform) and waveform.is_floating_point() and waveform.ndim):
            raise InputError(f"the recording is {shown(waveform)} (expected: a tensor or array of floats within [-1, 1])")
        waveform = waveform.to(self.spectrogram.spectrogram.window.dtype)
        samples = waveform.shape[-1] // self.config.hop_length * self.config.hop_length
        if samples <= max(self.context):
            raise InputError(f"{waveform.shape[-1]} samples are too short for a mel spectrogram (expected: more than {max(self.context)})")
        waveform = waveform[..., :samples]
        batched = waveform.reshape(1, -1, samples)  # reflection needs three dimensions
        padded = F.pad(batched, self.context, mode=self.config.pad_mode).reshape(*waveform.shape[:-1], -1)
        return self.from_padded(padded)

    def from_padded(self, waveform: Tensor) -> Tensor:
        """As `forward`, for a waveform `[..., left + T + right]` that already has its `context` of samples on both sides."""
        spectrum = self.spectrogram.spectrogram(waveform)
        if self.config.spectrum_offset:
            spectrum = (spectrum + self.config.spectrum_offset) ** (self.config.power / 2)
        mel = self.spectrogram.mel_scale(spectrum)
        if self.config.clamp == "before":
            logarithm = mel.clamp(min=self.config.clamp_min).log()
        else:
            logarithm = torch.where(mel == 0, torch.zeros_like(mel), mel.log())
        return compress(logarithm, self.config)

    def band_widths(self) -> Tensor:
        """Sum of each band's filter, `[n_mels]`: the mel of a spectrum of ones."""
        return self.spectrogram.mel_scale.fb.sum(0)

    @property
    def empty_bands(self) -> Optional[str]:
        """One line if there are bands that no line of the spectrum is in, else None."""
        n_empty = int((self.band_widths() == 0).sum())
        if n_empty == 0:
            return None
        config = self.config
        return (
            f"{n_empty} of {config.n_mels} mel bands are empty (expected: a smaller mel.n_mels, or a larger mel.n_fft than {config.n_fft})"
        )

    def range(self) -> tuple[float, float]:
        """The smallest and largest value that the mel of a waveform within [-1, 1] can have.

        The largest is that of all the energy of the window in the widest band; the smallest is -infinity where nothing clamps.
        """
        window = self.spectrogram.spectrogram.window.double()
        amplitude = window.sum() / window.square().sum().sqrt() if self.config.normalized else window.sum()
        largest = amplitude.log() * self.config.power + self.band_widths().max().log()
        return tuple(compress(value, self.config).item() for value in (torch.tensor(-math.inf), largest))

    def misfit(self, mel: Tensor) -> Optional[str]:
        """One line if `mel` cannot be on this scale, else None."""
        low, high = self.range()
        found_low, found_high = mel.min().item(), mel.max().item()
        if low - RANGE_TOLERANCE <= found_low and found_high <= high + RANGE_TOLERANCE:
            return None
        return (
            f"values from {found_low:.3g} to {found_high:.3g} cannot be on the model's mel scale "
            f"(expected: within {low:.3g} to {high:.3g}, {self.config.log} of mel power {self.config.power:g})"
        )


def as_mel(mel: Union[Tensor, np.ndarray], n_mels: int, fewest_frames: int = 1) -> Tensor:
    """A mel of any precision, as a tensor or a NumPy array, `[n_mels, frames]` or `[1, n_mels, frames]`.

    Returns:
        `[n_mels, frames]`, float32, on the device it was on.

    Raises:
        InputError: it is no array of real numbers, has another shape, is too short, or holds NaN or infinity.
    """
    if type(mel) in (np.ndarray, np.memmap) and mel.dtype.kind in "fiu":  # a masked array has a meaning of its own
        mel = torch.from_numpy(mel.astype(np.float64 if mel.dtype.itemsize > 8 else mel.dtype.newbyteorder("="), order="C"))
    is_plain = torch.is_tensor(mel) and mel.layout == torch.strided and not (mel.is_quantized or mel.is_nested)
    if not is_plain or mel.is_complex() or mel.dtype == torch.bool:
        facts = "".join(f", {getattr(mel, fact)}" for fact in ("dtype", "layout") if hasattr(mel, fact))
        raise InputError(f"mel is {shortened(f'a {type(mel).__name__}{facts}')} (expected: real numbers, in a plain dense tensor or array)")
    shape = list(mel.shape)
    if mel.ndim == 3 and shape[0] == 1:
        mel = mel[0]
    if mel.ndim != 2 or mel.shape[0] != n_mels:
        hint = "; frames along the first axis?" if mel.ndim == 2 and mel.shape[1] == n_mels else ""
        raise InputError(f"mel has shape {shape} (expected: [{n_mels}, frames] or [1, {n_mels}, frames]{hint})")
    if mel.shape[1] < fewest_frames:
        raise InputError("mel has no frames")
    mel = mel.detach().float()
    if not mel.is_meta and not mel.isfinite().all():  # a meta tensor has no values
        raise InputError("mel holds NaN or infinity")
    return mel


def read_mel(path, n_mels: int) -> Tensor:
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
            raise InputError(f"{path}: mel is a meta tensor, which has no values (expected: real numbers)")
        with naming(path):
            return as_mel(mel, n_mels)  # here, as a small file may hold a tensor that fits into no memory


class MelStatistics(BaseModel):
    """Statistics of log-mel features over many frames, in the features' own unit.

    Keys:
        n_frames: how many frames they are of.
        mean, std: of each band.
        minimum, maximum: of all bands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    n_frames: PositiveInt
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[NonNegativeFloat, ...]
    minimum: float
    maximum: float

    @model_validator(mode="after")
    def _check(self):
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} bands, std has {len(self.std)}")
        return self


def mel_statistics(mels: Iterable[Tensor]) -> MelStatistics:
    """Statistics of mels.

    Args:
        mels: iterable of `[n_mels, frames]`, of any lengths.

    Raises:
        InputError: there are none.
    """
    n_frames, total, squares, minimum, maximum = 0, 0.0, 0.0, torch.inf, -torch.inf
    for mel in mels:
        mel = mel.double()
        n_frames += mel.shape[1]
        total, squares = total + mel.sum(1), squares + mel.square().sum(1)
        minimum, maximum = min(minimum, mel.min().item()), max(maximum, mel.max().item())
    if n_frames == 0:
        raise InputError("no mel frames to take statistics of")
    mean = total / n_frames
    std = (squares / n_frames - mean.square()).clamp(min=0).sqrt()
    return MelStatistics(n_frames=n_frames, mean=tuple(mean.tolist()), std=tuple(std.tolist()), minimum=minimum, maximum=maximum)


@torch.no_grad()
def statistics_of_recordings(waveforms: Iterable[Tensor], mel_transform: LogMelSpectrogram) -> MelStatistics:
    """Statistics of the mels of recordings, to be recorded in a checkpoint.

    Args:
        waveforms: iterable of `[T]`, such as `datasets.Recordings`.
        mel_transform: a `LogMelSpectrogram`.

    Raises:
        InputError: there are none, or one is too short.
    """
    return mel_statistics(mel_transform(waveform) for waveform in waveforms)


def parse_mel_statistics(text: str, n_mels: int, origin) -> MelStatistics:
    """Reads statistics from JSON text.

    Raises:
        InputError: one line that names `origin`: the text is no statistics, or of another number of bands.
    """
    with validating(origin):
        statistics = MelStatistics.model_validate_json(text)
    if len(statistics.mean) != n_mels:
        raise InputError(f"{origin}: {len(statistics.mean)} bands (expected: {n_mels}, as in the configuration)")
    return statistics
