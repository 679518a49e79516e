"""Statistics of the mels of a training set. The checkpoint holds them, so that inference can find mels of another definition."""

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator

from common.errors import InputError
from common.validation import validating


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


def mel_statistics(mels):
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
def statistics_of_recordings(waveforms, mel_transform):
    """Statistics of the mels of recordings, to be recorded in a checkpoint.

    Args:
        waveforms: iterable of `[T]`, such as `datasets.Recordings`.
        mel_transform: a `LogMelSpectrogram`.

    Raises:
        InputError: there are none, or one is too short.
    """
    return mel_statistics(mel_transform(waveform) for waveform in waveforms)


def parse_mel_statistics(text, n_mels, origin):
    """Reads statistics from JSON text.

    Raises:
        InputError: one line that names `origin`: the text is no statistics, or of another number of bands.
    """
    with validating(origin):
        statistics = MelStatistics.model_validate_json(text)
    if len(statistics.mean) != n_mels:
        raise InputError(f"{origin}: {len(statistics.mean)} bands (wanted: {n_mels}, as in the configuration)")
    return statistics
