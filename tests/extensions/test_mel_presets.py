"""Every mel definition by name is what the library that it is defined by computes."""

import math

import librosa
import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import MelSpectrogram

from common.errors import InputError
from extensions.interop.presets import PRESETS, preset
from model.config import load_config
from model.mel import LogMelSpectrogram, compress, expand
from tests.conftest import ROOT, assert_log_mels_agree, golden


@pytest.fixture(scope="module")
def audio():
    """Two seconds of speech after some noise, a whole number of hops of 256 and of 300."""
    speech, _ = soundfile.read(ROOT / "generated_samples" / "recordings" / "ru_0836.flac", dtype="float32")
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, len(speech)).astype(np.float32)
    return (speech + noise)[: 19200 * 2]


def by_librosa(audio, sample_rate, n_fft, hop_length, n_mels, f_min, f_max, offset=0.0, padding="center"):
    """Magnitude mel with librosa's filters: "center" by librosa's own framing, else (n_fft - hop) / 2 on both sides."""
    if padding == "same":
        audio = np.pad(audio, (n_fft - hop_length) // 2, mode="reflect")
    stft = librosa.stft(audio, n_fft=n_fft, hop_length=hop_length, center=padding == "center", pad_mode="reflect")
    magnitude = np.sqrt(np.abs(stft) ** 2 + offset)
    filters = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max)
    return filters @ magnitude


def by_torchaudio(audio, **arguments):
    return MelSpectrogram(**arguments)(torch.from_numpy(audio)).numpy()


def decibels_in_01(mel):
    return np.clip((20 * np.log10(np.maximum(mel, 1e-5)) - 20 + 100) / 100, 0, 1)


LJSPEECH = {"sample_rate": 22050, "n_fft": 1024, "hop_length": 256, "n_mels": 80}
IVANVOVK = {**LJSPEECH, "hop_length": 300, "f_min": 80.0, "f_max": 8000.0}
LMNT = {"sample_rate": 24000, "n_fft": 2048, "win_length": 1200, "hop_length": 300, "n_mels": 128, "f_min": 20.0}
BIGVGAN = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "f_min": 0, "f_max": 12000}
WANTED = {
    "wavegrad": lambda audio: np.log10(np.maximum(by_torchaudio(audio, **IVANVOVK), 1e-10)),
    "ivanvovk": lambda audio: np.log10(by_torchaudio(audio, **IVANVOVK)),
    "lmnt": lambda audio: decibels_in_01(by_torchaudio(audio, **LMNT, f_max=12000.0, power=1.0, normalized=True)),
    "diffwave": lambda audio: decibels_in_01(by_torchaudio(audio, **LJSPEECH, f_min=20.0, f_max=11025.0, power=1.0, normalized=True)),
    "tacotron2": lambda audio: np.log(np.maximum(by_librosa(audio, **LJSPEECH, f_min=0, f_max=8000), 1e-5)),
    "hifigan": lambda audio: np.log(np.maximum(by_librosa(audio, **LJSPEECH, f_min=0, f_max=8000, offset=1e-9, padding="same"), 1e-5)),
    "bigvgan": lambda audio: np.log(np.maximum(by_librosa(audio, **BIGVGAN, offset=1e-9, padding="same"), 1e-5)),
    "parallel_wavegan": lambda audio: np.log10(np.maximum(by_librosa(audio, **LJSPEECH, f_min=80, f_max=7600), 1e-10)),
    "vocos": lambda audio: np.log(
        np.maximum(by_torchaudio(audio, sample_rate=24000, n_fft=1024, hop_length=256, n_mels=100, power=1), 1e-7)
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_their_libraries_compute(name, audio):
    config = preset(name)
    samples = len(audio) // config.hop_length * config.hop_length
    expected = torch.from_numpy(np.asarray(WANTED[name](audio[:samples]), dtype=np.float32))
    mel = LogMelSpectrogram(config)(torch.from_numpy(audio))
    # Libraries that centre on the first sample count one frame more, centred on the end.
    assert expected.shape[1] - mel.shape[1] == (1 if config.padding == "center" else 0)
    torch.testing.assert_close(mel, expected[:, : mel.shape[1]], atol=1e-4, rtol=0)


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="'melgan'.*wavegrad, ivanvovk, lmnt.*hifigan"):
        preset("melgan")


def test_agrees_with_lmnt():
    tensors = golden("lmnt_mel.pt")
    mel = LogMelSpectrogram(preset("lmnt"))(tensors["audio"])
    assert {key: getattr(preset("lmnt"), key) for key in tensors["params"]} == tensors["params"]
    assert_log_mels_agree(mel, tensors["mel"][..., : mel.shape[-1]], sixty_db=0.6)


def test_agrees_with_ivanvovk():
    tensors = golden("ivanvovk_mel.pt")
    mel = LogMelSpectrogram(preset("ivanvovk"))(tensors["audio"])
    assert_log_mels_agree(mel, tensors["log10_mel"], sixty_db=6.0)


@pytest.mark.parametrize("file, name", [("default.json", "wavegrad"), ("ljspeech-hifigan-mel.json", "hifigan")])
def test_configurations_have_the_features_that_they_are_named_after(file, name):
    config = load_config(ROOT / "configs" / file)
    assert config.mel == preset(name)
    assert config.network.hop_length == config.mel.hop_length


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("padding", ["center", "same"])
def test_frames_are_where_the_padding_says(pad_mode, padding):
    """Against NumPy alone: a frame's window starts half a window before the first sample, or before the hop's middle."""
    config = preset("hifigan").model_copy(update={"pad_mode": pad_mode, "padding": padding, "spectrum_offset": 0.0})
    audio = np.random.default_rng(0).uniform(-1, 1, 256 * 8)
    left = 512 if padding == "center" else 384
    padded = np.pad(audio, (left, 1024), mode=pad_mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.stack([padded[start : start + 1024] * window for start in range(0, 2048, 256)])
    # The last frames end in the right-hand padding, which `np.pad` made as long as any of them needs.
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    expected = np.log(np.maximum(filters @ np.abs(np.fft.rfft(frames)).T, 1e-5)).astype(np.float32)
    mel = LogMelSpectrogram(config)(torch.from_numpy(audio).float())
    torch.testing.assert_close(mel, torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].clip is None])
def test_expand_undoes_compress(name):
    logarithm = torch.linspace(math.log(PRESETS[name].clamp_min), 8, 20, dtype=torch.float64)
    torch.testing.assert_close(expand(compress(logarithm, PRESETS[name]), PRESETS[name]), logarithm)


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_within_full_scale_leaves_the_range(name):
    mel = LogMelSpectrogram(preset(name))
    time = torch.arange(9600.0)
    for waveform in [torch.zeros(9600), torch.ones(9600), torch.sin(0.5 * time), torch.randn(9600).sign()]:
        assert mel.misfit(mel(waveform)) is None or name == "ivanvovk"
