"""Griffin-Lim, the yardstick, gives back a waveform with the mel that it was given."""

import pytest
import torch

from model.mel.griffin_lim import griffin_lim
from model.mel.transform import LogMelSpectrogram
from tests.conftest import config_of, tiny_config_values


@pytest.mark.parametrize("changes", [{}, {"power": 1.0, "log": "ln", "norm": "slaney", "mel_scale": "slaney", "mean": -3.0, "std": 2.0}])
def test_its_mel_is_near_the_one_given(changes):
    values = tiny_config_values()
    values["mel"].update(changes)
    config = config_of(values).mel
    mel_of = LogMelSpectrogram(config)
    time = torch.arange(4000) / 8000
    recording = 0.3 * torch.sin(2 * torch.pi * (300 * time + 400 * time**2)) + 0.01 * torch.randn(4000)
    mel = mel_of(recording)
    result = griffin_lim(mel, config)
    assert result.shape == recording.shape
    error, spread = (mel_of(result) - mel).abs().mean(), (mel - mel.mean()).abs().mean()
    assert error < 0.35 * spread
