"""What of the errors of generated speech is heard, beside PESQ itself."""

import pytest
import soundfile
import torch
from pesq import pesq

from extensions.infer_grad.pmsqe import PMSQE, bark, hearing_threshold
from tests.conftest import ROOT

SAMPLE_RATE = 16000


@pytest.fixture(scope="module")
def distance():
    return PMSQE(SAMPLE_RATE)


@pytest.fixture(scope="module")
def speech():
    """`[1, T]`: three seconds."""
    waveform, _ = soundfile.read(ROOT / "generated_samples/recordings/ru_0830.flac", dtype="float32", frames=3 * SAMPLE_RATE)
    return torch.from_numpy(waveform)[None]


def noise_like(waveform):
    return torch.randn(waveform.shape, generator=torch.Generator().manual_seed(0))


def tone(frequency, n_samples, sample_rate=SAMPLE_RATE):
    return torch.sin(2 * torch.pi * frequency * torch.arange(n_samples) / sample_rate)[None]


def test_scales_of_hearing():
    """Bands of a Bark at the corners that Zwicker (1961) gives for them, and the ear most sensitive between 3 and 4 kHz."""
    corners = torch.tensor([100.0, 510, 1080, 2000, 3150, 5300])
    assert (bark(corners) - torch.tensor([1.0, 5, 9, 13, 16, 20])).abs().max() < 0.7
    frequencies = torch.arange(100.0, 8000, 10)
    assert 3000 < frequencies[hearing_threshold(frequencies).argmin()] < 4000


def test_orders_errors_as_pesq_does(distance, speech):
    """Fails if a step of the model of hearing is wrong enough to matter. Not filters, which PESQ makes good for."""
    noise, n_samples = noise_like(speech), speech.shape[1]
    degraded = [speech + amplitude * noise for amplitude in (3e-4, 1e-3, 3e-3, 1e-2)]
    degraded += [speech + amplitude * tone(400, n_samples) for amplitude in (1e-3, 1e-2)]
    degraded += [speech * (1 + depth * tone(8, n_samples)) for depth in (0.1, 0.5)]
    by_pesq = sorted(degraded, key=lambda x: -pesq(SAMPLE_RATE, speech[0].numpy(), x[0].numpy(), "wb"))
    distances = [distance(speech, x).item() for x in by_pesq]
    assert distances == sorted(distances)


def test_only_what_is_heard_counts(distance, speech):
    """Not the recording itself, nor other signs, nor 2 % more of it, nor noise far below its softest bands."""
    nothing = distance(speech, speech).item()
    assert nothing < 0.002
    for unheard in (-speech, 1.02 * speech, speech + 1e-6 * noise_like(speech)):
        assert distance(speech, unheard).item() < nothing + 1e-3
    assert distance(speech, speech + 1e-3 * noise_like(speech)).item() > 0.5


def test_what_is_added_is_heard_more_than_what_is_missing(distance, speech):
    richer = speech + 0.01 * tone(3000, speech.shape[1])
    assert distance(speech, richer).item() > 2 * distance(richer, speech).item()


@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000])
def test_other_sample_rates(speech, sample_rate):
    """Fails if a band has no line, or if the filter, given at 16 kHz, is silent above 8 kHz."""
    distance = PMSQE(sample_rate)
    assert (distance.bands.sum(0) > 0).all() and (distance.bands.sum(1) > 0).all()
    assert distance(speech, speech + 0.01 * noise_like(speech)).item() > 0.5


@pytest.mark.parametrize("frequency", [500, 2000])
def test_is_as_loud_at_each_sample_rate(frequency):
    """Fails if the level depends on the samples of a frame, or the width of a band on the highest frequency."""
    distances = []
    for sample_rate in (16000, 24000, 48000):
        a = 0.1 * tone(frequency, sample_rate, sample_rate)
        distances.append(PMSQE(sample_rate)(a, 0.5 * a).item())
    assert max(distances) < 1.25 * min(distances)
