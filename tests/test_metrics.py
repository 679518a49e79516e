"""Every metric on cases whose value is known."""

import math

import numpy as np
import pytest
import torch

from metrics import (
    METRICS,
    cepstral_distance,
    dnsmos,
    f0_frame_error,
    log_mel_l1,
    mel_cepstral_distortion,
    multi_resolution_stft_distance,
    pesq_wideband,
    pitch_frame_error,
    short_time_intelligibility,
)
from model.config import MelConfig
from model.mel.transform import LogMelSpectrogram
from tests.synthetic_speech import synthetic_speech

SAMPLE_RATE = 16000
MEL = LogMelSpectrogram(
    MelConfig(sample_rate=SAMPLE_RATE, n_fft=512, win_length=512, hop_length=128, n_mels=40, f_min=20, f_max=8000, log="ln")
)
# P.862.2 maps the largest raw score, 4.5, to 0.999 + 4 / (1 + exp(-1.3669 * 4.5 + 3.8224)).
BEST_PESQ = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))
BEST = {"pesq": BEST_PESQ, "stoi": 1, "estoi": 1, "mcd": 0, "log_mel_l1": 0, "stft": 0, "ffe": 0}


@pytest.fixture(scope="module")
def speech():
    return synthetic_speech(3)


@pytest.fixture(scope="module")
def noise():
    return torch.randn(3 * SAMPLE_RATE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted(BEST))
def test_identical_signals_have_the_best_value(name, speech):
    assert METRICS[name].measure(speech, speech, MEL) == pytest.approx(BEST[name], abs=1e-4)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_more_noise_is_worse(name, speech, noise):
    values = [METRICS[name].measure(speech, speech + gain * noise, MEL) for gain in (0.001, 0.02, 0.1)]
    assert values == sorted(values, reverse=METRICS[name].higher_is_better)
    assert values[0] != values[2]


def test_pesq_of_silence_and_of_no_speech_is_nan(speech):
    assert math.isnan(pesq_wideband(speech, torch.zeros_like(speech), SAMPLE_RATE))
    assert math.isnan(pesq_wideband(torch.zeros_like(speech), speech, SAMPLE_RATE))


def odd_recordings():
    generator = torch.Generator().manual_seed(2)
    noise = 0.1 * torch.randn(8192, generator=generator)
    click = torch.zeros(8192)
    click[4000] = 1
    lengths = {f"{n} samples": noise[:n] for n in (384, 512, 820, 1024, 1025, 1152, 4096, 6400)}
    return lengths | {
        "silence": torch.zeros(8192),
        "nearly silence": 1e-7 * noise,
        "silence but for the end": torch.cat([torch.zeros(8192), noise[:2000]]),
        "a click": click,
        "a constant": torch.full((8192,), 0.3),
        "a tone": 0.5 * torch.sin(2 * math.pi * 200 / SAMPLE_RATE * torch.arange(8192)),
    }


@pytest.mark.parametrize("recording", odd_recordings().values(), ids=odd_recordings())
def test_a_recording_compared_with_itself_has_the_best_value_or_none(recording):
    """Fails if a metric's mark of failure goes for a measurement."""
    for name, best in BEST.items():
        value = METRICS[name].measure(recording, recording, MEL)
        assert math.isnan(value) or value == pytest.approx(best, abs=1e-4), name


@pytest.mark.parametrize("recording", [torch.zeros(8192), torch.full((384,), 0.1)], ids=["silence", "24 ms"])
def test_dnsmos_of_what_is_no_speech_is_on_its_scale(recording):
    assert 1 <= METRICS["dnsmos"].measure(recording, recording, MEL) <= 5


@pytest.mark.parametrize("name", ["stoi", "estoi"])
def test_intelligibility_wants_0_4_s_of_speech(name):
    measure, generator = METRICS[name].measure, torch.Generator().manual_seed(3)
    noise = torch.randn(SAMPLE_RATE, generator=generator)
    assert math.isnan(measure(noise[:6400], noise[:6400], MEL))
    assert measure(noise[:7200], noise[:7200], MEL) == pytest.approx(1, abs=1e-4)
    assert measure(noise, torch.zeros_like(noise), MEL) == 0  # nothing of it can be understood


def test_nothing_is_relative_to_silence(noise):
    assert math.isnan(METRICS["stft"].measure(torch.zeros_like(noise), noise, MEL))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_waveform_that_is_not_finite_has_no_value(name, speech):
    for value in (math.nan, math.inf):
        broken = speech.clone()
        broken[100] = value
        assert math.isnan(METRICS[name].measure(speech, broken, MEL))


def test_other_sample_rates_are_resampled():
    speech = synthetic_speech(3, sample_rate=22050)
    assert pesq_wideband(speech, speech, 22050) == pytest.approx(BEST_PESQ, abs=1e-4)
    assert 1 <= dnsmos(speech, 22050) <= 5


def test_stoi_ignores_level_and_extended_stoi_is_stricter(speech, noise):
    assert short_time_intelligibility(speech, 0.5 * speech, SAMPLE_RATE) == pytest.approx(1, abs=1e-6)
    noisy = speech + 0.05 * noise
    assert short_time_intelligibility(speech, noisy, SAMPLE_RATE, extended=True) < short_time_intelligibility(speech, noisy, SAMPLE_RATE)


def test_log_mel_l1_of_twice_the_power_is_ln_2(noise):
    assert log_mel_l1(MEL(noise), MEL(noise * math.sqrt(2))) == pytest.approx(math.log(2), abs=1e-4)


def test_cepstral_distance_of_one_cosine_in_the_envelope():
    n_mels = 80
    flat = np.zeros((n_mels, 5))
    ripple = np.cos(np.pi * 3 * (np.arange(n_mels) + 0.5) / n_mels)[:, None] * np.ones((1, 5))
    # A cosine of amplitude 1 in ln power is 10 / ln 10 dB high, and has the root mean square 1 / sqrt 2 of that.
    assert cepstral_distance(flat, ripple) == pytest.approx(10 / math.log(10) / math.sqrt(2))
    fine = np.cos(np.pi * 20 * (np.arange(n_mels) + 0.5) / n_mels)[:, None] * np.ones((1, 5))
    assert cepstral_distance(flat, fine) == pytest.approx(0, abs=1e-9)  # finer than an envelope


def test_mel_cepstral_distortion_ignores_level(noise):
    assert mel_cepstral_distortion(noise, 0.5 * noise, SAMPLE_RATE) == pytest.approx(0, abs=1e-4)


def test_stft_distance_of_twice_the_amplitude(noise):
    # Spectral convergence |2 - 1| / 1, and ln 2 in every bin.
    assert multi_resolution_stft_distance(noise, 2 * noise).item() == pytest.approx(1 + math.log(2), abs=1e-4)


def test_stft_distances_of_a_batch_are_those_of_its_waveforms(noise, speech):
    pairs = [(speech, speech + 0.1 * noise[: len(speech)]), (noise[: len(speech)], speech)]
    distances = multi_resolution_stft_distance(*(torch.stack(waveforms) for waveforms in zip(*pairs)))
    torch.testing.assert_close(distances, torch.stack([multi_resolution_stft_distance(*pair) for pair in pairs]))


def test_pitch_frame_error_counts_voicing_and_pitch():
    reference = np.array([100.0, 100, 100, 0, 0])
    degraded = np.array([119.0, 121, 0, 0, 100])
    assert pitch_frame_error(reference, degraded) == pytest.approx(3 / 5)


def test_f0_frame_error_hears_another_pitch(speech):
    other = synthetic_speech(3, f0=170.0)
    assert f0_frame_error(speech, other, SAMPLE_RATE) > 0.3


def test_dnsmos_tells_speech_from_noise(speech, noise):
    assert dnsmos(speech, SAMPLE_RATE) > dnsmos(0.1 * noise, SAMPLE_RATE)
