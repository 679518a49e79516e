"""Noise in the shape of the mel: the change of variable, what it does to noise, and that it needs a bounded surrounding alone."""

import math

import pytest
import torch

from extensions.specgrad import SpectralPrior
from model.config import MelConfig, SpectralPriorConfig
from model.mel import LogMelSpectrogram
from tests.training_fixtures import new_trainer, write_run

MEL = MelConfig(
    sample_rate=16000, n_fft=256, win_length=256, hop_length=64, n_mels=24, f_min=0.0, f_max=8000.0, power=1.0, padding="same", log="ln",
    clamp_min=1e-5, mel_scale="slaney", norm="slaney",
)  # fmt: skip


@pytest.fixture
def prior():
    return SpectralPrior(SpectralPriorConfig(kind="spectral", relative_floor=0.01, floor=0.001), MEL)


@pytest.fixture
def voice():
    """A sound with harmonics below 4 kHz, which grows and fades, `[1, T]`, and its mel."""
    seconds = torch.arange(100 * MEL.hop_length) / MEL.sample_rate
    y = sum(torch.sin(2 * math.pi * 200 * k * seconds + k) / k for k in range(1, 20)) * torch.sin(8 * seconds).square() * 0.1
    return y[None], LogMelSpectrogram(MEL)(y[None])


def test_whitening_is_undone(prior, voice):
    y, mel = voice
    back = prior.unwhiten(prior.whiten(y, mel), mel)
    assert 10 * torch.log10(y.square().sum() / (y - back).square().sum()) > 20


def test_noise_gets_the_spectrum_of_the_speech(prior, voice):
    """The mel of the prior's noise is that of the speech, where this is above the floor; in silence noise is as soft as the floor."""
    y, mel = voice
    noise = torch.randn(16, y.shape[1], generator=torch.Generator().manual_seed(0))
    of_noise = LogMelSpectrogram(MEL)(prior.unwhiten(noise, mel.expand(16, -1, -1))).exp().mean(0)
    loud = mel[0].exp() > 0.1 * mel[0].exp().amax(0)
    assert (of_noise.log() - mel[0])[loud].abs().median() < 0.5
    silence = LogMelSpectrogram(MEL)(torch.zeros(1, 3200))
    assert prior.unwhiten(torch.randn(1, 3200), silence).std().item() == pytest.approx(0.001, rel=0.1)


def test_whitened_speech_is_as_loud_as_the_noise(prior, voice):
    y, mel = voice
    frames = y.unflatten(1, (-1, MEL.hop_length)).square().mean(-1)[0]
    z = prior.whiten(y, mel).unflatten(1, (-1, MEL.hop_length)).square().mean(-1)[0]
    assert frames.max() / frames.clamp(min=1e-12).quantile(0.1) > 100  # what the speech has
    assert z.quantile(0.9) / z.quantile(0.1) < 10


@pytest.mark.parametrize("name", ["whiten", "unwhiten"])
def test_needs_its_context_alone(prior, voice, name):
    """Streams and training segments give it `context_frames` on each side, and no less will do."""
    y, mel = voice
    whole = getattr(prior, name)(y, mel)[:, 40 * 64 : 60 * 64]

    def part(context):
        samples = slice((40 - context) * 64, (60 + context) * 64)
        result = getattr(prior, name)(y[:, samples], mel[..., 40 - context : 60 + context])
        return result[:, context * 64 : -context * 64]

    torch.testing.assert_close(part(prior.context_frames), whole, rtol=0, atol=1e-6)
    assert not torch.allclose(part(prior.context_frames - 2), whole, rtol=0, atol=1e-6)


def test_first_and_last_samples_have_whole_windows(prior, voice):
    y, mel = voice
    z = prior.whiten(y + 0.1, mel)
    assert z[0, :8].abs().min() > 0 and z[0, -8:].abs().min() > 0


def test_training_segments_are_whitened_as_the_whole_recording_is(tmp_path):
    """A segment is read with its margins, and cut after whitening: its z_0 and mel are those of the whole recording."""
    prior = {"prior__kind": "spectral", "prior__relative_floor": 0.01, "prior__floor": 0.001}
    trainer = new_trainer(write_run(tmp_path, network__prediction="velocity", data__segment_frames=8, **prior))
    batch = next(trainer.batches())
    given = trainer.prepare(batch)
    hop_length = trainer.config.mel.hop_length
    assert given.z_0.shape == given.y_0.shape == given.noise.shape == (len(batch.number), 8 * hop_length)
    assert given.mel.shape[2] == 8
    number = batch.number[0].item()
    recording = trainer.data.training[trainer.data.examples(trainer.config.data).recording_of(number)][None]
    places = recording[0].unfold(0, 8 * hop_length, hop_length)
    [frame] = (places == given.y_0[0]).all(1).nonzero().flatten().tolist()
    mel = trainer.mel_transform(recording)
    whole = trainer.prior.whiten(recording, mel)
    torch.testing.assert_close(given.z_0[0], whole[0, frame * hop_length : (frame + 8) * hop_length], rtol=0, atol=1e-4)
    torch.testing.assert_close(given.mel[0], mel[0, :, frame : frame + 8], rtol=0, atol=1e-4)
    assert trainer.train_step(batch).updated
