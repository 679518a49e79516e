"""Shallow diffusion: Griffin-Lim's estimate, and sampling that starts from it, whole, streamed and in training."""

import copy

import numpy as np
import pytest
import torch

from benchmarking.metrics import log_mel_l1
from common.errors import InputError
from extensions.griffin_lim.estimate import make_start
from extensions.griffin_lim.real_time import RealTimeGriffinLim
from extensions.griffin_lim.spectrum import MelSpectrum
from extensions.infer_grad.loss import InferGradLoss
from extensions.registry import make_pipeline
from extensions.streaming import SynthesisStream, push_all
from model.config import InferGradConfig
from model.mel import LogMelSpectrogram
from model.noise_schedule import NoiseSchedule, interpolate
from tests.conftest import changed_config, mel_config, seeded_network
from tests.oracles import frame_by_frame, whole_noises
from tests.synthetic_speech import synthetic_speech
from vocoder import Vocoder

MELS = {
    "magnitude": {},
    "power": {"power": 2.0, "win_length": 120},
    "same, normalised": {"padding": "same", "normalized": True, "log": "ln"},
    "decibels": {"log": "db", "mean": 20.0, "std": 10.0, "pad_mode": "constant"},
}
SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.3], griffin_lim=2)


def tiny_pipeline(schedule, prior=None, sampler=None):
    config = changed_config(prior=prior)
    return make_pipeline(seeded_network(config), config, schedule, sampler)


def speech_mel(config):
    return LogMelSpectrogram(config)(synthetic_speech(0.5, config.sample_rate)[None])


def estimator(config):
    """A function (noise, mel, iterations, look-ahead) that makes the estimate of a schedule."""

    def estimate(z, mel, n_iter, look_ahead=None):
        return make_start(NoiseSchedule([0.5], griffin_lim=n_iter, look_ahead=look_ahead), config)(z, mel)

    return estimate


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("changes", MELS.values(), ids=MELS)
def test_each_iteration_brings_the_mel_closer(changes):
    """Fails if frames, window, scale or filters are not those of the mel, or phases are drawn anew."""
    config = mel_config(**changes)
    mel_of, mel = LogMelSpectrogram(config), speech_mel(config)
    estimate = estimator(config)
    for look_ahead, n_iters, most in ((None, (0, 2, 8, 32), 0.6), (3, (1, 3, 8, 32), 0.7)):
        waveforms = [estimate(noise(1, mel.shape[2] * 40), mel, n_iter, look_ahead) for n_iter in n_iters]
        distances = [log_mel_l1(mel, mel_of(waveform)) for waveform in waveforms]
        assert distances == sorted(distances, reverse=True)
        assert distances[3] < most * distances[0]


@pytest.mark.parametrize("look_ahead", [None, 2])
@pytest.mark.parametrize(
    "band, within, without", [({"f_max": 2000.0}, slice(36, 40), slice(45, 75)), ({"f_min": 1000.0}, slice(21, 23), slice(3, 16))]
)
def test_lines_of_no_band_are_as_loud_as_the_band_beside_them(band, within, without, look_ahead):
    """Fails if a network that hears nothing there has nothing to shape. A line is 50 Hz."""
    config = mel_config(**band)
    mel = torch.zeros(1, 20, 80)
    estimate = estimator(config)(noise(1, mel.shape[2] * 40), mel, 4, look_ahead)
    spectrum = torch.stft(estimate, 160, 40, window=torch.hann_window(160), return_complex=True).abs().mean(-1)[0]
    assert 0.3 < spectrum[without].mean() / spectrum[within].mean() < 3


def test_what_has_no_estimate_is_said_at_the_start(tmp_path):
    """Fails if a vocoder, or a run in its later stage, finds it only when it synthesises."""
    SCHEDULE.save(tmp_path / "s.json")
    infer_grad = InferGradConfig(noise_schedule="s.json")
    for mel, message in [({"mel__win_length": 80}, "mel.win_length is 80"), ({"mel__f_min": 3990.0}, "band covers no line")]:
        config = changed_config(**mel)
        Vocoder(seeded_network(config), config, NoiseSchedule([0.5]))
        with pytest.raises(InputError, match=message):
            Vocoder(seeded_network(config), config, SCHEDULE)
        with pytest.raises(InputError, match=message):
            InferGradLoss(infer_grad, tmp_path, 8000, config, 0, torch.device("cpu"))


def test_frame_by_frame_nothing_depends_on_batch_or_threads():
    """To the last bit, for a rounding error grows until the waveform is another: with processes, portions of a batch, or streams."""
    config = mel_config(n_fft=512, win_length=400)
    mels = LogMelSpectrogram(config)(synthetic_speech(1.0, config.sample_rate)[None])
    mels, noises = torch.cat([mels, mels - 1, mels + 0.5]), noise(3, mels.shape[2] * 40)
    estimate, n_threads, found = estimator(config), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(estimate(noises, mels, 3, 2))
            found.append(torch.cat([estimate(noises[i : i + 1], mels[i : i + 1], 3, 2) for i in range(3)]))
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(one, found[0]) for one in found[1:])
    together, alone = estimate(noises, mels, 3), [estimate(noises[i : i + 1], mels[i : i + 1], 3) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))  # of all frames at once, up to rounding


@pytest.mark.parametrize("look_ahead", [None, 3])
def test_it_is_as_loud_as_the_mel(look_ahead):
    """Fails if a waveform that grows is divided by windows that are not there."""
    config = mel_config()
    mel, mel_of = speech_mel(config), LogMelSpectrogram(config)
    result = estimator(config)(noise(1, mel.shape[2] * 40), mel, 3, look_ahead)
    decibels = 10 * (mel_of(result) - mel)[mel > mel.mean()].mean()  # log10 of power
    assert -1.5 < decibels < 1.5


def test_a_mel_that_no_waveform_has_does_not_end_a_stream():
    """Fails if one bad frame makes all that follows NaN."""
    mel = speech_mel(mel_config())
    mel[:, :, 20] = 60.0
    result = estimator(mel_config())(noise(1, mel.shape[2] * 40), mel, 2, 2)
    assert result.isfinite().all() and result[:, -400:].abs().max() < 1


def test_a_stream_stays_where_it_is_when_the_network_is_used_elsewhere():
    """The other device is `meta`, as a GPU would be: a stream computes its estimate on the CPU."""
    mel = speech_mel(mel_config())[0]
    pipeline = tiny_pipeline(NoiseSchedule(SCHEDULE.betas, griffin_lim=2, look_ahead=1))
    stream, wanted = SynthesisStream(pipeline), torch.cat(list(push_all(SynthesisStream(pipeline), [mel])))
    first = stream.push(mel[:, :40])
    start = copy.deepcopy(pipeline.start).to("meta")
    assert start.spectrum.window.is_meta
    torch.testing.assert_close(torch.cat([first, stream.push(mel[:, 40:], last=True)]), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("look_ahead", [None, 0, 3])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_and_silent_mels(frames, look_ahead):
    """Fails if a quotient of silence is not finite, or a mel shorter than a window has no frames."""
    config = mel_config()
    silence = LogMelSpectrogram(config)(torch.zeros(1, 400))[..., :frames]
    with torch.autocast("cpu", torch.bfloat16):  # of the network, which is not for this
        result = estimator(config)(noise(1, 40 * frames), silence, 3, look_ahead)
    assert result.shape == (1, 40 * frames) and result.abs().max() < 1e-2 and result.dtype == torch.float32


@pytest.mark.parametrize("prior", [None, {"loudest": 2.0}])
@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_sampling_starts_at_the_estimate(prior, name):
    """Fails if y_N is noise, or is not on the scale of its noise level."""
    mel = speech_mel(mel_config())
    noises, states = [noise(1, mel.shape[2] * 40, seed=seed) for seed in range(5)], {}
    tiny_pipeline(SCHEDULE, prior, name)(mel, noises=noises, callback=lambda n, y: states.setdefault(n, y))
    estimate = estimator(mel_config())(noises[0], mel, 2)
    abar = 0.999 * 0.95 * 0.7
    torch.testing.assert_close(states[3], abar**0.5 * estimate, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_iter, look_ahead, piece", [(0, None, 3), (2, None, 1), (2, None, 40), (1, 0, 3), (2, 0, 100), (1, 5, 7)])
def test_pieces_give_the_whole(n_iter, look_ahead, piece):
    """Fails if the stream gives a frame before the frames that its estimate depends on, or mixes up the noises."""
    schedule = NoiseSchedule(SCHEDULE.betas, griffin_lim=n_iter, look_ahead=look_ahead)
    pipeline, mel = tiny_pipeline(schedule, {"loudest": 2.0}, "sde-dpm-solver"), speech_mel(mel_config())[0]
    pieces = torch.cat(list(push_all(SynthesisStream(pipeline), mel.split(piece, dim=1))))
    whole = pipeline(mel[None], noises=whole_noises(0, 3, mel.shape[1], 40))
    torch.testing.assert_close(pieces, whole[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("look_ahead, piece", [(0, 7), (3, 4)])
def test_frame_by_frame_the_latency_does_not_grow_with_the_iterations(look_ahead, piece):
    """And what was returned does not depend on how the frames were grouped, to the last bit."""
    mel, latencies = speech_mel(mel_config())[0], {}
    for n_iter in (1, 6):
        stream = SynthesisStream(tiny_pipeline(NoiseSchedule(SCHEDULE.betas, griffin_lim=n_iter, look_ahead=look_ahead)))
        latencies[n_iter] = stream.latency_frames - 3 * stream.pipeline.network.context_frames
        returned = sum(len(stream.push(frames)) for frames in mel.split(piece, dim=1)) // 40
        assert returned == mel.shape[1] - stream.latency_frames
    assert latencies[1] == latencies[6] == look_ahead + 2

    z, whole = noise(1, mel.shape[1] * 40), RealTimeGriffinLim(MelSpectrum(mel_config(), "a test"), 2, look_ahead)
    parts = RealTimeGriffinLim(MelSpectrum(mel_config(), "a test"), 2, look_ahead)
    groups = list(zip(z.split(40 * piece, 1), mel[None].split(piece, 2)))
    pieces = [parts.push(*group, last=i == len(groups) - 1) for i, group in enumerate(groups)]
    assert torch.equal(torch.cat(pieces, 1), whole.push(z, mel[None], last=True))


def test_phases_go_on_from_frame_to_frame():
    """Fails if frames take their phases from anything else than the waveform so far: after so few iterations a voice is hoarse then."""
    config = mel_config(n_mels=64, n_fft=512, win_length=512).model_copy(update={"hop_length": 128})
    time = torch.arange(8192) / config.sample_rate
    voice = 0.1 * sum(torch.sin(2 * torch.pi * 150 * k * time) for k in range(1, 6))[None]
    mel, estimate = LogMelSpectrogram(config)(voice), estimator(config)
    likeness, periods = {}, round(4 * config.sample_rate / 150)
    for look_ahead in (2, None):
        waveform = estimate(noise(*voice.shape), mel, 3, look_ahead)[0, 2000:-600]
        likeness[look_ahead] = torch.corrcoef(torch.stack([waveform[periods:], waveform[:-periods]]))[0, 1]
    assert likeness[2] > 0.9 and likeness[None] < 0.6, likeness


def test_a_schedule_says_it(tmp_path):
    """Fails if a file, or a schedule derived from another, loses the estimate."""
    NoiseSchedule([0.1, 0.2], griffin_lim=np.int64(4), look_ahead=np.int64(0)).save(tmp_path / "numpy.json")
    loaded = NoiseSchedule.load(tmp_path / "numpy.json")
    assert (loaded.griffin_lim, loaded.look_ahead, interpolate(loaded, 3).look_ahead) == (4, 0, 0)
    assert NoiseSchedule([0.1]).warning and not NoiseSchedule([0.1], griffin_lim=0).warning


@pytest.mark.parametrize("value", [-1, 1.5, "8", True, 1001])
@pytest.mark.parametrize("key, most", [("griffin_lim", 1000), ("look_ahead", 100)])
def test_other_numbers_are_refused(key, most, value):
    with pytest.raises(InputError, match=rf"{key} is .* \(expected: a whole number, 0 to {most}\)"):
        NoiseSchedule([0.1], **{"griffin_lim": 1, key: value})
    with pytest.raises(InputError, match=r"look_ahead is 3 and griffin_lim is 0 \(expected with look_ahead: 1 or more"):
        NoiseSchedule([0.1], griffin_lim=0, look_ahead=3)


def test_a_band_that_covers_no_line_leaves_the_others():
    """Fails if narrow bands, which some mels have, make the whole estimate NaN."""
    config = mel_config(n_mels=80, f_min=200.0)
    definition = LogMelSpectrogram(config)
    assert (definition.band_widths()[1:-1] == 0).any() and (definition.band_widths()[[0, -1]] > 0).all()
    mel = definition(synthetic_speech(0.5, config.sample_rate)[None])
    estimate = estimator(config)(noise(1, mel.shape[2] * 40), mel, 2)
    assert estimate.isfinite().all() and log_mel_l1(mel, definition(estimate)) < 3


@pytest.mark.parametrize("look_ahead, n_iter", [(0, 1), (3, 2)])
@pytest.mark.parametrize("changes", [*MELS.values(), {"f_min": 300.0, "f_max": 3000.0, "n_mels": 40}, {"n_mels": 1}])
def test_frame_by_frame_it_is_the_textbook(changes, look_ahead, n_iter):
    """Until the rounding has grown, which it does from frame to frame."""
    config = mel_config(**changes)
    mel = speech_mel(config)[..., 40:48]
    z, spectrum = noise(1, 40 * 8), MelSpectrum(config, "a test")
    expected = frame_by_frame(spectrum, z, mel, n_iter, look_ahead)
    torch.testing.assert_close(RealTimeGriffinLim(spectrum, n_iter, look_ahead).push(z, mel, last=True), expected, rtol=1e-3, atol=1e-4)
