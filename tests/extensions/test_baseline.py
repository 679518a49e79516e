"""Griffin-Lim, the yardstick, gives back a waveform with the mel that it was given."""

import pytest
import torch

from extensions.griffin_lim.baseline import griffin_lim, invert_mel
from model.mel import LogMelSpectrogram, expand
from tests.conftest import mel_config

CHANGES = [{}, {"power": 1.0, "log": "ln", "norm": "slaney", "mel_scale": "slaney", "mean": -3.0, "std": 2.0}]


def chirp_in_noise():
    time = torch.arange(4000) / 8000
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    return 0.3 * torch.sin(2 * torch.pi * (300 * time + 400 * time**2)) + 0.01 * noise


@pytest.mark.parametrize("changes", [*CHANGES, {"normalized": True}, {"padding": "same"}])
def test_its_mel_is_near_the_one_given(changes):
    config = mel_config(**changes)
    mel_of, recording = LogMelSpectrogram(config), chirp_in_noise()
    mel = mel_of(recording)
    result = griffin_lim(mel, config)
    assert result.shape == recording.shape
    error, spread = (mel_of(result) - mel).abs().mean(), (mel - mel.mean()).abs().mean()
    assert error < 0.25 * spread


@pytest.mark.parametrize("changes", CHANGES)
def test_the_spectrum_has_the_mel_that_was_given(changes):
    """Fails if the spectrum is negative somewhere, or quiet bands are sacrificed to loud ones."""
    config = mel_config(**changes)
    mel_of = LogMelSpectrogram(config)
    mel = expand(mel_of(chirp_in_noise()).double(), config).exp()
    filters = mel_of.spectrogram.mel_scale.fb.T.double()
    spectrum = invert_mel(mel, filters)
    assert (spectrum >= 0).all() and (spectrum[filters.sum(0) == 0] == 0).all()
    assert ((filters @ spectrum) / mel).log().abs().mean() < 0.05


def test_silence_is_silent():
    """Fails if a quotient of silence is not finite."""
    config = mel_config()
    waveform = griffin_lim(LogMelSpectrogram(config)(torch.zeros(4000)), config)
    assert waveform.isfinite().all() and waveform.abs().max() < 1e-3
