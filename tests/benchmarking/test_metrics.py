"""Every metric on cases whose value is known."""

import math

import librosa
import numpy as np
import pytest
import torch
import torchcrepe

from benchmarking.metrics import METRICS, pitch
from benchmarking.metrics.perceptual import VISQOL_SHORTEST, _distillmos_model, _visqol_model, distillmos, dnsmos, pesq_wideband, visqol
from benchmarking.metrics.pitch import _periodicity, pitch_frame_error, voicing_f1
from benchmarking.metrics.spectral import cepstral_distance
from common.audio import read_audio
from model.config import MelConfig
from model.mel import LogMelSpectrogram
from tests.conftest import ROOT
from tests.processes import PYTHON, run_to_end
from tests.synthetic_speech import synthetic_speech

N_THREADS = torch.get_num_threads()  # before any metric has run
SAMPLE_RATE = 16000
MEL = LogMelSpectrogram(
    MelConfig(sample_rate=SAMPLE_RATE, n_fft=512, win_length=512, hop_length=128, n_mels=40, f_min=20, f_max=8000, log="ln")
)
# P.862.2 maps the largest raw score, 4.5, to 0.999 + 4 / (1 + exp(-1.3669 * 4.5 + 3.8224)).
BEST_PESQ = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))
BEST = {
    "pesq": BEST_PESQ, "visqol": 5, "stoi": 1, "estoi": 1, "mcd": 0, "log_mel_l1": 0, "m_stft": 0, "tone": 0, "ffe": 0,
    "periodicity": 0, "vuv_f1": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def speech():
    return synthetic_speech(3)


@pytest.fixture(scope="module")
def noise():
    return torch.randn(3 * SAMPLE_RATE, generator=torch.Generator().manual_seed(1))


def shortened(name, waveform, seconds):
    """What a slow metric is tried on, in this file that should be fast."""
    return waveform[: round(seconds * SAMPLE_RATE)] if METRICS[name].is_slow else waveform


def test_training_imports_no_slow_package():
    """Fails if a package that takes seconds to import, and that no preview needs, is imported with the table."""
    slow = ("onnxruntime", "speechmos", "torchcrepe", "resampy", "visqol", "distillmos", "transformers")
    code = f"import sys, training.trainer, training.previews; print([name for name in {slow} if name in sys.modules])"
    result = run_to_end(PYTHON, "-c", code)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"dnsmos", "distillmos"}))  # predictions have no best value that is reached
def test_identical_signals_have_the_best_value(name, speech):
    speech = shortened(name, speech, 0.2)
    assert METRICS[name].measure(speech, speech, MEL) == pytest.approx(BEST[name], abs=1e-4)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"distillmos", "tone"}))
def test_more_noise_is_worse(name, speech, noise):
    speech, noise = (shortened(name, waveform, 0.2) for waveform in (speech, noise))
    values = [METRICS[name].measure(speech, speech + gain * noise, MEL) for gain in (0.001, 0.02, 0.1)]
    assert values == sorted(values, reverse=METRICS[name].higher_is_better)
    assert values[0] != values[2]


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
        tried = shortened(name, recording, 0.1)
        value = METRICS[name].measure(tried, tried, MEL)
        assert math.isnan(value) or value == pytest.approx(best, abs=1e-4), name


@pytest.mark.parametrize("recording", [torch.zeros(8192), torch.full((384,), 0.1)], ids=["silence", "24 ms"])
def test_opinion_scores_of_what_is_no_speech_are_on_their_scale(recording):
    for name in ("dnsmos", "distillmos"):
        assert 1 <= METRICS[name].measure(recording, recording, MEL) <= 3, name


@pytest.mark.parametrize("name", ["stoi", "estoi"])
def test_intelligibility_wants_0_4_s_of_speech(name):
    measure, generator = METRICS[name].measure, torch.Generator().manual_seed(3)
    noise = torch.randn(SAMPLE_RATE, generator=generator)
    assert math.isnan(measure(noise[:6400], noise[:6400], MEL))
    assert measure(noise[:7200], noise[:7200], MEL) == pytest.approx(1, abs=1e-4)
    assert measure(noise, torch.zeros_like(noise), MEL) == 0  # nothing of it can be understood


@pytest.mark.parametrize("name", ["pesq", "m_stft", "visqol", "periodicity", "vuv_f1"])
def test_nothing_is_relative_to_silence(name, speech):
    speech = shortened(name, speech, 0.1)
    assert math.isnan(METRICS[name].measure(torch.zeros_like(speech), speech, MEL))
    assert name != "pesq" or math.isnan(METRICS[name].measure(speech, torch.zeros_like(speech), MEL))


SHORTEST = {"m_stft": 2048, "ffe": 1024, "mcd": 1024, "log_mel_l1": MEL.config.n_fft, "visqol": VISQOL_SHORTEST}
SHORTEST |= {"periodicity": 1024, "vuv_f1": 1024}


@pytest.mark.parametrize("name, shortest", SHORTEST.items())
def test_the_shortest_recording_that_can_be_judged(name, shortest):
    """Fails if a shorter one raises, or has a value, or a longer one has none."""
    tone = 0.5 * torch.sin(2 * math.pi * 200 / SAMPLE_RATE * torch.arange(shortest))
    assert METRICS[name].measure(tone, tone, MEL) == pytest.approx(BEST[name], abs=1e-4)
    assert math.isnan(METRICS[name].measure(tone[1:], tone[1:], MEL))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_waveform_that_is_not_finite_has_no_value(name, speech):
    for value in (math.nan, math.inf):
        broken = speech.clone()
        broken[100] = value
        assert math.isnan(METRICS[name].measure(speech, broken, MEL))


def test_other_sample_rates_are_resampled():
    speech = synthetic_speech(3, sample_rate=22050)
    assert pesq_wideband(speech, speech, 22050) == pytest.approx(BEST_PESQ, abs=1e-4)
    assert visqol(speech, speech, 22050) == pytest.approx(5, abs=1e-4)
    assert dnsmos(speech, 22050) == pytest.approx(dnsmos(synthetic_speech(3), SAMPLE_RATE), abs=0.2)
    assert distillmos(speech, 22050) == pytest.approx(distillmos(synthetic_speech(3), SAMPLE_RATE), abs=0.2)
    assert len(_periodicity(speech[:2205], 22050)) == 1 + (1600 - 1024) // 160


@pytest.mark.parametrize(
    "name, gain, expected",
    [
        ("stoi", 0.5, 1),
        ("mcd", 0.5, 0),
        ("log_mel_l1", math.sqrt(2), math.log(2)),
        ("m_stft", 2, 1 + math.log(2)),  # spectral convergence is |2 - 1| / 1, and ln 2 in every bin; not relative to the louder one
    ],
)
def test_what_another_level_makes(name, gain, expected, speech, noise):
    sound = speech if name == "stoi" else noise
    assert METRICS[name].measure(sound, gain * sound, MEL) == pytest.approx(expected, abs=1e-4)


def test_extended_stoi_is_stricter(speech, noise):
    strict, plain = (METRICS[name].measure(speech, speech + 0.05 * noise, MEL) for name in ("estoi", "stoi"))
    assert strict < plain


def test_cepstral_distance_of_one_cosine_in_the_envelope():
    n_mels = 80
    flat = np.zeros((n_mels, 5))
    ripple = np.cos(np.pi * 3 * (np.arange(n_mels) + 0.5) / n_mels)[:, None] * np.ones((1, 5))
    # A cosine of amplitude 1 in ln power is 10 / ln 10 dB high, and has the root mean square 1 / sqrt 2 of that.
    assert cepstral_distance(flat, ripple) == pytest.approx(10 / math.log(10) / math.sqrt(2))
    fine = np.cos(np.pi * 20 * (np.arange(n_mels) + 0.5) / n_mels)[:, None] * np.ones((1, 5))
    assert cepstral_distance(flat, fine) == pytest.approx(0, abs=1e-9)  # finer than an envelope


def test_tone_is_the_height_of_a_line(speech):
    """Fails if a line is looked for elsewhere, or noise of the same power counts as one."""
    time = torch.arange(len(speech)) / SAMPLE_RATE
    for frequency in (2000, 4000, 6000):
        line = torch.sin(2 * torch.pi * frequency * time)
        low, high = (METRICS["tone"].measure(speech, speech + level * line, MEL) for level in (1e-3, 1e-2))
        assert high > 10 and high - low == pytest.approx(20, abs=3)
    assert METRICS["tone"].measure(speech, speech + 0.01 * torch.sin(2 * torch.pi * 3000 * time), MEL) < 1


def test_pitch_frame_error_counts_voicing_and_pitch():
    reference = np.array([100.0, 100, 100, 0, 0])
    degraded = np.array([119.0, 121, 0, 0, 100])
    assert pitch_frame_error(reference, degraded) == pytest.approx(3 / 5)


def test_f0_frame_error_hears_another_pitch(speech):
    assert METRICS["ffe"].measure(speech, synthetic_speech(3, f0=170.0), MEL) > 0.3


def test_voicing_f1_by_hand():
    voiced, swapped, half = np.array([0.21, 1, 0.2, 0]), np.array([0.2, 0, 0.21, 1]), np.array([0, 0.5, 0.5, 0])
    assert voicing_f1(voiced, swapped) == 0  # every decision is wrong
    assert voicing_f1(voiced, half) == 0.5  # precision and recall are
    assert voicing_f1(voiced, np.ones(4)) == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert voicing_f1(voiced, np.zeros(4)) == 0
    assert math.isnan(voicing_f1(np.zeros(4), voiced))


def test_periodicity_of_a_tone_and_of_noise(noise):
    """Fails if periodicity is that of another range of pitch, or silence has some."""
    time, unvoiced, error = torch.arange(1600) / SAMPLE_RATE, 0.1 * noise[:1600], METRICS["periodicity"].measure
    voiced = 0.3 * sum(torch.sin(2 * math.pi * 150 * k * time) / k for k in range(1, 11))
    periodicity = _periodicity(voiced, SAMPLE_RATE)
    assert periodicity.min() > 0.8 and _periodicity(unvoiced, SAMPLE_RATE).max() < 0.2
    assert error(voiced, unvoiced, MEL) > 0.6 and METRICS["vuv_f1"].measure(voiced, unvoiced, MEL) == 0
    assert error(voiced, torch.zeros(1600), MEL) == pytest.approx(np.sqrt((periodicity**2).mean()))
    high = 0.3 * torch.sin(2 * math.pi * 900 * time)
    assert _periodicity(high, SAMPLE_RATE).max() < 0.21  # above 550 Hz


def test_periodicity_is_that_of_one_prediction_for_the_whole_waveform(speech, monkeypatch):
    """Fails if batches change the decoding, or frames are padded."""
    waveform = speech[:3000]
    monkeypatch.setattr(pitch, "CREPE_BATCH", 3)
    _, wanted = torchcrepe.predict(waveform[None], SAMPLE_RATE, fmin=50.0, fmax=550.0, pad=False, return_periodicity=True)
    found = _periodicity(waveform, SAMPLE_RATE)
    assert len(found) == 13 and (found > 0).all()
    np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-4)


def test_frames_below_60_db_have_no_periodicity(noise):
    """Fails if loudness is another one than the mean of A-weighted dB, less 20 dB, of a Hann window of 1,024 samples."""
    # White noise of the power s^2 has the power s^2 times the window's energy, 384, in each line, and the mean logarithm of such
    # a line, which is exponentially distributed, is 2.51 dB lower.
    weighting = librosa.A_weighting(np.arange(1, 513) * SAMPLE_RATE / 1024).sum() / 513 - 80 / 513  # -80 dB at 0 Hz
    limit = -60 + 20 - 10 * math.log10(384) + 2.51 - weighting
    for decibels, is_silent in ((-1.5, True), (1.5, False)):
        periodicity = _periodicity(10 ** ((limit + decibels) / 20) * noise[:1600], SAMPLE_RATE)
        assert (periodicity == 0).all() if is_silent else (periodicity > 0).all()


def test_visqol_leaves_the_number_of_threads(speech):
    """Fails if what PyTorch computes after it is divided among all cores, and differs in the last digits."""
    visqol(speech, speech, SAMPLE_RATE)
    assert torch.get_num_threads() == N_THREADS


def test_visqol_and_distillmos_say_nothing(speech, capfd, caplog, recwarn):
    for load in (_visqol_model, _distillmos_model):
        load.cache_clear()
    visqol(speech, speech.roll(4000), SAMPLE_RATE)
    distillmos(speech, SAMPLE_RATE)
    assert capfd.readouterr() == ("", "") and not caplog.records and not list(recwarn)


def test_distillmos_of_speech_with_more_noise():
    """Of a person: synthetic speech is none to it."""
    speech = read_audio(ROOT / "generated_samples" / "recordings" / "ru_0836.flac", SAMPLE_RATE)
    noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(0))
    values = [distillmos(speech + gain * noise, SAMPLE_RATE) for gain in (0, 0.005, 0.02, 0.1)]
    assert values == sorted(values, reverse=True) and values[0] > 4 and values[-1] < 2
