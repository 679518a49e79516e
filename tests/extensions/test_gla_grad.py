"""GLA-Grad's correction brings a waveform closer to its mel, whole or in pieces, and leaves one that has it as it is."""

import pytest
import torch

from benchmarking.metrics import log_mel_l1
from common.errors import InputError
from extensions.griffin_lim.gla_grad import GlaGrad
from extensions.streaming import SynthesisStream, push_all
from model.mel import LogMelSpectrogram
from model.noise_schedule import NoiseSchedule
from model.pipeline import Pipeline
from tests.conftest import mel_config
from tests.extensions.test_estimate import MELS
from tests.synthetic_speech import synthetic_speech

SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.6])


def speech(config, seconds=0.5):
    waveform = synthetic_speech(seconds, config.sample_rate)
    return waveform[None, : waveform.shape[0] // config.hop_length * config.hop_length]


def noise_like(waveform):
    return 0.1 * torch.randn(waveform.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("changes", MELS.values(), ids=MELS)
def test_a_waveform_of_that_mel_stays(changes):
    """Fails if frames, window, scale or filters are not those of the mel: then even the recording would be changed."""
    config = mel_config(**changes)
    y = speech(config)
    corrected = GlaGrad(config, 4)(y, LogMelSpectrogram(config)(y))
    assert corrected.shape == y.shape
    assert (corrected - y).abs().max() < 1e-3 * y.abs().max()


@pytest.mark.parametrize("changes", MELS.values(), ids=MELS)
def test_each_iteration_brings_the_mel_closer(changes):
    config = mel_config(**changes)
    mel_of = LogMelSpectrogram(config)
    mel, y = mel_of(speech(config)), noise_like(speech(config))
    distances = [log_mel_l1(mel, mel_of(y))]
    distances += [log_mel_l1(mel, mel_of(GlaGrad(config, n_iter)(y, mel))) for n_iter in (1, 4, 16)]
    assert distances == sorted(distances, reverse=True)
    assert distances[1] < 0.5 * distances[0] and distances[3] < 0.6 * distances[1]


def test_phases_are_those_of_the_waveform():
    """Fails if the phases are not where it starts from: one iteration changes magnitudes alone."""
    config = mel_config()
    mel_of = LogMelSpectrogram(config)
    y = speech(config)
    corrected = GlaGrad(config, 1)(0.1 * y, mel_of(y))
    assert (corrected - y).norm() < 0.02 * y.norm()  # lines that are in no band keep their magnitudes


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_mels_shorter_than_a_window(frames):
    config = mel_config()
    corrected = GlaGrad(config, 2)(torch.zeros(1, 40 * frames), torch.randn(1, 20, frames))
    assert corrected.shape == (1, 40 * frames) and corrected.isfinite().all()


def test_result_is_a_waveform():
    """Within [-1, 1], whatever the mel asks for, and in float32 in a network's autocast."""
    config = mel_config()
    with torch.autocast("cpu", torch.bfloat16):
        corrected = GlaGrad(config, 2)(noise_like(torch.zeros(2, 800)), torch.full((2, 20, 20), 3.0))
    assert corrected.dtype == torch.float32
    assert 0.5 < corrected.abs().max() <= 1


@pytest.mark.parametrize("changes", MELS.values(), ids=MELS)
@pytest.mark.parametrize("piece", [3, 40])
def test_pieces_give_the_whole(tiny_network, changes, piece):
    """Fails if a frame of the result depends on more frames than the stream waits for."""
    config = mel_config(**changes)
    mel, gla_grad = LogMelSpectrogram(config)(speech(config)[0]), GlaGrad(config, 2)
    plain = torch.cat(list(push_all(SynthesisStream(Pipeline(tiny_network, SCHEDULE)), mel.split(piece, dim=1))))
    corrected = torch.cat(list(push_all(SynthesisStream(Pipeline(tiny_network, SCHEDULE, correction=gla_grad)), mel.split(piece, dim=1))))
    torch.testing.assert_close(corrected, gla_grad(plain[None], mel[None])[0], atol=1e-4, rtol=0)
    assert not torch.allclose(corrected, plain, atol=1e-2)


@pytest.mark.parametrize(
    "changes, n_iter, message",
    [({}, 0, "got 0"), ({}, -1, "got -1"), ({"win_length": 80}, 1, r"win_length is 80 \(expected: more than twice")],
)
def test_what_cannot_be(changes, n_iter, message):
    with pytest.raises(InputError, match=message):
        GlaGrad(mel_config(**changes), n_iter)
