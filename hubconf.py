"""`torch.hub.load(REPOSITORY, "wavegrad", source="local")`: the released vocoder, for programs that are not in this repository."""

from pathlib import Path

from common.released import CHECKPOINT, SCHEDULE
from vocoder import Vocoder

dependencies = ["torch", "torchaudio", "numpy", "scipy", "soundfile", "soxr", "pydantic", "safetensors", "joblib"]


def wavegrad(checkpoint=CHECKPOINT, schedule=SCHEDULE, device=None, **options):
    """A `vocoder.Vocoder`: mels -> waveforms. Printed, it says the shapes and rates that it takes and gives.

    Args:
        checkpoint: path of the weights; other ones than the released need a schedule of their own.
        schedule: path or text of the noise schedule.
        device: "cpu", "cuda", "cuda:N" or "mps"; None is a GPU if there is one, as in `inference.py`.
        options: as of `Vocoder.load`, such as `gla_grad`.

    Raises:
        OSError, InputError: a file, the schedule or the device cannot be used.
    """
    return Vocoder.load(Path(checkpoint), schedule, device=device, **options)
