"""One definition of the features, equal to what the libraries and the published checkpoints compute."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from model.config import MelConfig
from model.mel import LogMelSpectrogram
from tests.conftest import mel_config


def test_silence_is_the_smallest_value_by_default():
    """The old implementation made digital silence as loud as unit power."""
    silence = torch.zeros(800)
    assert (LogMelSpectrogram(mel_config())(silence) == -10).all()
    assert (LogMelSpectrogram(mel_config(clamp="zero"))(silence) == 0).all()


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_agrees_with_librosa(mel_scale, norm, power):
    config = mel_config(mel_scale=mel_scale, norm=norm, power=power, log="ln", clamp_min=1e-5, win_length=120)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 2000).astype(np.float32)
    frames = {"n_fft": 160, "win_length": 120, "hop_length": 40, "pad_mode": "reflect", "power": power}
    bands = {"n_mels": 20, "fmin": 0, "fmax": 4000, "htk": mel_scale == "htk", "norm": norm}
    expected = librosa.feature.melspectrogram(y=audio, sr=8000, **frames, **bands)
    expected = torch.from_numpy(np.log(np.maximum(expected, 1e-5)))[:, :-1]
    torch.testing.assert_close(LogMelSpectrogram(config)(torch.from_numpy(audio)), expected, atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(120, 3000))
def test_frames_times_hop_is_samples(samples):
    mel = LogMelSpectrogram(mel_config())
    whole = samples // 40 * 40
    assert mel(torch.zeros(samples)).shape == (20, whole // 40)
    assert mel(torch.zeros(2, samples)).shape == (2, 20, whole // 40)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 38), st.integers(1, 12))
def test_the_mel_of_a_segment_is_that_of_the_whole(start, frames):
    """So that training sees the features that inference will see, at the edges of a segment too."""
    mel = LogMelSpectrogram(mel_config())
    audio = torch.randn(50 * 40, generator=torch.Generator().manual_seed(0)) * 0.1
    left, right = mel.context
    padded = torch.nn.functional.pad(audio[None], mel.context, mode="reflect")[0]
    segment = padded[start * 40 : (start + frames) * 40 + left + right]
    torch.testing.assert_close(mel.from_padded(segment), mel(audio)[:, start : start + frames], atol=1e-5, rtol=0)


@pytest.mark.parametrize("foreign", [lambda mel: mel * 2.3026 - 5, lambda mel: (mel + 10) / 2, lambda mel: mel * 10])
def test_another_scale_is_noticed(foreign):
    mel = LogMelSpectrogram(mel_config())
    features = foreign(mel(torch.sin(torch.arange(4000.0)) * torch.linspace(0, 1, 4000)))
    message = mel.misfit(features)
    assert "mel scale" in message and "\n" not in message


def test_too_short_a_waveform_is_refused():
    with pytest.raises(InputError, match="79 samples are too short"):
        LogMelSpectrogram(mel_config())(torch.zeros(79))


def test_empty_bands_are_said_in_the_words_of_the_configuration(recwarn):
    config = MelConfig(sample_rate=22050, n_fft=512, win_length=512, hop_length=128, n_mels=160, f_min=0.0, f_max=11025.0)
    assert "mel bands are empty (expected: a smaller mel.n_mels, or a larger mel.n_fft than 512)" in LogMelSpectrogram(config).empty_bands
    assert LogMelSpectrogram(config.model_copy(update={"n_mels": 20})).empty_bands is None
    assert len(recwarn) == 0


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.numpy, lambda waveform: waveform.double().numpy()[::-1][::-1]])
def test_floats_of_any_kind_are_converted(convert):
    """Fails if a caller's float64, as `soundfile.read` gives it, is a traceback of PyTorch."""
    transform, waveform = LogMelSpectrogram(mel_config()), 0.1 * torch.randn(6000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(transform(convert(waveform)), transform(waveform))


@pytest.mark.parametrize("waveform", [np.zeros(6000, np.int16), torch.zeros(6000, dtype=torch.complex64), [0.0] * 6000, None])
def test_what_is_no_waveform_is_refused(waveform):
    with pytest.raises(InputError, match="the recording is .*expected: a tensor or array of floats"):
        LogMelSpectrogram(mel_config())(waveform)
