"""What a training state is made of, and whether a file holds that."""

from typing import Optional

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from common.validation import validating


class _Entries(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Stability(_Entries):
    """State of a `StabilityGuard`."""

    calm: bool
    n_skipped: NonNegativeInt
    skipped_in_a_row: NonNegativeInt
    recent: list[float]
    lowest: Optional[float]


class DataSummary(_Entries):
    """What `same_data.summary` says of a list."""

    digest: str
    recordings: NonNegativeInt
    seconds: float = Field(ge=0)


class Data(_Entries):
    training: DataSummary
    validation: DataSummary


class RandomState(_Entries):
    """States of PyTorch's generators, as tensors."""

    cpu: object
    cuda: object = None


class TrainingState(_Entries):
    """The dictionary that `Trainer.state_dict` makes. What is optional here, older versions did not write."""

    network: dict
    ema: dict
    optimizer: dict
    lr_scheduler: dict
    scaler: dict
    step: NonNegativeInt
    position: NonNegativeInt
    n_rollbacks: NonNegativeInt
    stability: Stability
    best_validation_loss: Optional[float]
    rng: RandomState
    config: str
    versions: dict[str, str]
    adversary: Optional[dict] = None
    mel_statistics: Optional[str] = None
    data: Optional[Data] = None
    schedules: Optional[dict[str, dict]] = None


def check_training_state(state, path):
    """Checks that the entries of a training state are of their types.

    Raises:
        InputError: one is missing or of another type; names the file, the entry and what was found.
    """
    with validating(f"{path}: training cannot go on from it"):
        TrainingState.model_validate(state)
