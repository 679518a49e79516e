"""Shallow diffusion: Griffin-Lim's estimate, and sampling that starts from it, whole, streamed and in training."""

import json

import numpy as np
import pytest
import torch

from benchmarking.tools.textbook import textbook
from common.errors import InputError
from metrics import log_mel_l1
from model.config import InferGradConfig
from model.export import OnnxNetwork, export
from model.hub import PretrainedWaveGrad
from model.mel.transform import LogMelSpectrogram
from model.network import new_network
from model.noise_schedule import NoiseSchedule, interpolate
from model.sampler import SAMPLERS
from model.shallow import GriffinLimEstimate, start
from model.streaming import SynthesisStream, synthesize_stream
from tests.conftest import config_of, tiny_config_values
from tests.oracles import whole_noises
from tests.synthetic_speech import synthetic_speech
from training.infer_grad import InferGradLoss
from vocoder import Vocoder

MELS = {
    "magnitude": {},
    "power": {"power": 2.0, "win_length": 120},
    "same, normalised": {"padding": "same", "normalized": True, "log": "ln"},
    "decibels": {"log": "db", "mean": 20.0, "std": 10.0, "pad_mode": "constant"},
}
SCHEDULE = NoiseSchedule([1e-3, 0.05, 0.3], griffin_lim=2)


def tiny_config(prior=None, **mel):
    values = tiny_config_values()
    values["mel"] |= mel
    return config_of(values | ({"prior": prior} if prior else {}))


def tiny_network(prior=None, **mel):
    torch.manual_seed(0)
    return new_network(tiny_config(prior, **mel)).eval()


def speech_mel(config):
    waveform = synthetic_speech(0.5, config.sample_rate)
    return LogMelSpectrogram(config)(waveform[None])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("changes", MELS.values(), ids=MELS)
def test_each_iteration_brings_the_mel_closer(changes):
    """Fails if frames, window, scale or filters are not those of the mel, or phases are drawn anew."""
    config = tiny_config(**changes).mel
    mel_of, mel = LogMelSpectrogram(config), speech_mel(config)
    estimate = GriffinLimEstimate(config)
    distances = [log_mel_l1(mel, mel_of(estimate(noise(1, mel.shape[2] * 40), mel, n_iter))) for n_iter in (0, 2, 8, 32)]
    assert distances == sorted(distances, reverse=True)
    assert distances[3] < 0.6 * distances[0]


@pytest.mark.parametrize(
    "band, within, without", [({"f_max": 2000.0}, slice(36, 40), slice(45, 75)), ({"f_min": 1000.0}, slice(21, 23), slice(3, 16))]
)
def test_lines_of_no_band_are_as_loud_as_the_band_beside_them(band, within, without):
    """Fails if a network that hears nothing there has nothing to shape. A line is 50 Hz."""
    config = tiny_config(**band).mel
    mel = torch.zeros(1, 20, 80)
    estimate = GriffinLimEstimate(config)(noise(1, mel.shape[2] * 40), mel, 4)
    spectrum = torch.stft(estimate, 160, 40, window=torch.hann_window(160), return_complex=True).abs().mean(-1)[0]
    assert 0.3 < spectrum[without].mean() / spectrum[within].mean() < 3


def test_what_has_no_estimate_is_said_at_the_start(tmp_path):
    """Fails if a vocoder, or a run in its later stage, finds it only when it synthesises."""
    for mel, message in [({"win_length": 80}, "mel.win_length is 80"), ({"f_min": 3990.0}, "band covers no line")]:
        with pytest.raises(InputError, match=message):
            Vocoder(tiny_network(**mel), tiny_config(**mel).mel, SCHEDULE)
        Vocoder(tiny_network(**mel), tiny_config(**mel).mel, NoiseSchedule([0.5]))
    SCHEDULE.save(tmp_path / "s.json")
    config = InferGradConfig(noise_schedule="s.json")
    with pytest.raises(InputError, match="mel.win_length is 80"):
        InferGradLoss(config, tmp_path, 8000, tiny_config(win_length=80).mel, 0, torch.device("cpu"))


def test_each_of_a_batch_has_its_own():
    config = tiny_config().mel
    mels, noises = torch.cat([speech_mel(config), speech_mel(config) - 1]), noise(2, 4000)
    together = GriffinLimEstimate(config)(noises, mels, 3)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], GriffinLimEstimate(config)(noises[i : i + 1], mels[i : i + 1], 3))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_and_silent_mels(frames):
    """Fails if a quotient of silence is not finite, or a mel shorter than a window has no frames."""
    config = tiny_config().mel
    silence = LogMelSpectrogram(config)(torch.zeros(1, 400))[..., :frames]
    result = GriffinLimEstimate(config)(noise(1, 40 * frames), silence, 3)
    assert result.shape == (1, 40 * frames) and result.abs().max() < 1e-2


def test_it_computes_in_float32_in_autocast():
    config = tiny_config().mel
    with torch.autocast("cpu", torch.bfloat16):
        result = GriffinLimEstimate(config)(noise(1, 4000), speech_mel(config), 1)
    assert result.dtype == torch.float32


def test_windows_that_hardly_overlap_are_refused():
    config = tiny_config(win_length=80).mel
    with pytest.raises(InputError, match=r"griffin_lim: mel.win_length is 80 \(wanted: more than twice mel.hop_length, which is 40"):
        GriffinLimEstimate(config)(noise(1, 400), torch.zeros(1, 20, 10), 1)


@pytest.mark.parametrize("prior", [None, {"loudest": 2.0}])
@pytest.mark.parametrize("name", ["ancestral", "heun"])
def test_sampling_starts_at_the_estimate(prior, name):
    """Fails if y_N is noise, or is not on the scale of its noise level."""
    network, mel = tiny_network(prior), speech_mel(tiny_config().mel)
    noises, states = [noise(1, mel.shape[2] * 40, seed=seed) for seed in range(5)], {}
    SAMPLERS[name](network, mel, SCHEDULE, noises=noises, callback=lambda n, y: states.setdefault(n, y))
    estimate = GriffinLimEstimate(tiny_config().mel)(noises[0], mel, 2)
    abar = 0.999 * 0.95 * 0.7
    torch.testing.assert_close(states[3], abar**0.5 * estimate, rtol=1e-4, atol=1e-5)


def test_without_an_estimate_it_starts_at_noise():
    assert start(None, None, NoiseSchedule([0.5]), z := noise(1, 400), 2.0) is z


@pytest.mark.parametrize("n_iter", [0, 2])
@pytest.mark.parametrize("piece", [3, 40])
def test_pieces_give_the_whole(n_iter, piece):
    """Fails if the stream gives a frame before the frames that its estimate depends on, or mixes up the noises."""
    schedule, network = NoiseSchedule(SCHEDULE.betas, griffin_lim=n_iter), tiny_network({"loudest": 2.0})
    mel = speech_mel(tiny_config().mel)[0]
    pieces = torch.cat(list(synthesize_stream(network, schedule, mel.split(piece, dim=1))))
    whole = SAMPLERS["sde-dpm-solver"](network, mel[None], schedule, noises=whole_noises(0, 3, mel.shape[1], 40))
    torch.testing.assert_close(pieces, whole[0], atol=1e-4, rtol=0)


def test_latency_counts_the_estimate():
    network, mel = tiny_network(), noise(20, 80)
    stream = SynthesisStream(network, SCHEDULE)
    assert network.estimate.context_frames(2) == 3 * 4
    assert stream.latency_frames == 3 * 4 + 3 * network.context_frames
    assert sum(len(stream.push(frame)) // 40 for frame in mel.split(1, dim=1)) == 80 - stream.latency_frames


@pytest.mark.parametrize("make", [PretrainedWaveGrad, lambda config: textbook(new_network(config), config)], ids=["hub", "textbook"])
def test_every_form_of_the_network_starts_there(make):
    """Fails if a network is made without its estimate."""
    config = tiny_config()
    result = SAMPLERS["ddim"](make(config).eval(), speech_mel(config.mel), SCHEDULE, noises=[noise(1, 4000)])
    assert result.shape == (1, 4000)


def test_an_onnx_network_starts_there_too(tmp_path):
    """Fails if onnxruntime's form of a network has no estimate, or another one."""
    config, network = tiny_config(), tiny_network()
    export(network, config, tmp_path / "a.onnx")
    found, wanted = (
        SAMPLERS["ddim"](form, speech_mel(config.mel), SCHEDULE, noises=[noise(1, 4000)])
        for form in (OnnxNetwork(tmp_path / "a.onnx"), network)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_schedule_says_it(tmp_path):
    """Fails if a file, or a schedule derived from another, loses the estimate."""
    SCHEDULE.save(tmp_path / "s.json")
    assert NoiseSchedule.load(tmp_path / "s.json").griffin_lim == interpolate(SCHEDULE, 5).griffin_lim == 2
    NoiseSchedule([0.1], griffin_lim=np.int64(4)).save(tmp_path / "numpy.json")
    assert NoiseSchedule([0.1]).griffin_lim is None
    assert NoiseSchedule([0.1]).warning and not NoiseSchedule([0.1], griffin_lim=0).warning


@pytest.mark.parametrize("value", [-1, 1.5, "8", True, 1001])
def test_other_numbers_of_iterations_are_refused(value, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"betas": [0.1], "griffin_lim": value}))
    with pytest.raises(InputError, match=r"s.json: griffin_lim is .* \(wanted: a whole number, 0 to 1000\)"):
        NoiseSchedule.load(tmp_path / "s.json")


def test_a_band_that_covers_no_line_leaves_the_others():
    """Fails if narrow bands, which some mels have, make the whole estimate NaN."""
    config = tiny_config(n_mels=80, f_min=200.0).mel
    definition = LogMelSpectrogram(config)
    assert (definition.band_widths()[1:-1] == 0).any() and (definition.band_widths()[[0, -1]] > 0).all()
    mel = definition(synthetic_speech(0.5, config.sample_rate)[None])
    estimate = GriffinLimEstimate(config)(noise(1, mel.shape[2] * 40), mel, 2)
    assert estimate.isfinite().all() and log_mel_l1(mel, definition(estimate)) < 3
