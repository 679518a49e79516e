"""A mel that a text-to-speech model emits is told from the usual wrong ones, and the right one is vocoded."""

import json
import math
import re

import librosa
import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from common.errors import InputError
from extensions.interop.diagnosis import diagnose
from extensions.interop.presets import preset
from extensions.registry import read_checkpoint
from model.checkpoint import save_weights
from model.mel import LogMelSpectrogram, mel_statistics, parse_mel_statistics, statistics_of_recordings
from tests.conftest import ROOT

HIFIGAN = preset("hifigan")


@pytest.fixture(scope="module")
def speech():
    """Three recordings to train on and one to vocode, at the 22,050 Hz of the HiFi-GAN convention."""
    paths = sorted((ROOT / "generated_samples" / "recordings").glob("*.flac"))[:4]
    return [resample(torch.from_numpy(soundfile.read(path, dtype="float32")[0])[:64000], 16000, 22050) for path in paths]


@pytest.fixture(scope="module")
def statistics(speech):
    return statistics_of_recordings(speech[:3], LogMelSpectrogram(HIFIGAN))


def librosa_mel(audio, power=1.0, clamp=1e-5, logarithm=np.log):
    """What a text-to-speech model of the HiFi-GAN convention learns to emit, `[n_mels, frames]`; or nearly."""
    padded = np.pad(audio.numpy(), 384, mode="reflect")
    spectrum = np.abs(librosa.stft(padded, n_fft=1024, hop_length=256, center=False)) ** power
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0.0, fmax=8000.0)
    return torch.from_numpy(logarithm(np.maximum(filters @ spectrum, clamp))).float()


def normalised(mel):
    return (mel - mel.mean()) / mel.std()


def decibels(mel):
    return 20 * np.log10(mel)


MISTAKES = {
    "log10": (lambda audio: librosa_mel(audio, logarithm=np.log10), "looks like log10; the model expects natural log"),
    "decibels": (lambda audio: librosa_mel(audio, logarithm=decibels), "looks like decibels; the model expects natural log"),
    "power": (lambda audio: librosa_mel(audio, power=2.0, clamp=1e-10), "looks like power; the model expects magnitude"),
    "normalised": (lambda audio: normalised(librosa_mel(audio)), "looks like normalised features of mean 0 and deviation 1"),
    "linear": (lambda audio: librosa_mel(audio, logarithm=lambda mel: mel), "no logarithm was taken"),
    "integers": (lambda audio: librosa_mel(audio * 32768), "samples of up to 32768"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_apart(speech, statistics, mistake):
    make, words = MISTAKES[mistake]
    message = diagnose(make(speech[3]), LogMelSpectrogram(HIFIGAN), statistics)
    assert message is not None and "\n" not in message
    assert re.search(words, message), message


@pytest.mark.parametrize(
    "change",
    [
        lambda audio: audio,
        lambda audio: audio * 0.1,
        lambda audio: audio * 2,
        lambda audio: audio + 0.01 * audio.std() * torch.randn(len(audio), generator=torch.Generator().manual_seed(0)),
        lambda audio: audio + 0.1 * audio.std() * torch.randn(len(audio), generator=torch.Generator().manual_seed(0)),
        lambda audio: audio[20000:50000],
        lambda audio: torch.zeros(20000),
        lambda audio: torch.cat([torch.zeros(20000), audio]),
    ],
    ids=["as it is", "quieter", "louder", "a little noise", "much noise", "a piece", "silence", "after silence"],
)
def test_good_mels_pass_without_a_word(speech, statistics, change):
    assert diagnose(librosa_mel(change(speech[3])), LogMelSpectrogram(HIFIGAN), statistics) is None


@pytest.mark.parametrize("name", ["wavegrad", "lmnt", "parallel_wavegan"])
def test_natural_log_and_missing_normalisation_are_noticed_by_models_of_other_conventions(speech, name):
    definition = LogMelSpectrogram(preset(name))
    statistics = statistics_of_recordings(speech[:3], definition)
    assert diagnose(definition(speech[3]), definition, statistics) is None
    other = preset(name).model_copy(update={"log": "ln", "mean": 0.0, "std": 1.0, "clip": None})
    message = diagnose(LogMelSpectrogram(other)(speech[3]), definition, statistics)
    wanted = "decibels" if name == "lmnt" else "log10"
    assert message.startswith("looks like natural log") and f"the model expects {wanted}" in message
    assert ("not normalised" in message) == (name == "lmnt")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda mel: mel / math.log(10), "looks like log10; the model expects natural log"),
        (lambda mel: (2 * mel / math.log(10)).half().float(), "looks like log10, power; the model expects natural log, magnitude"),
        (lambda mel: 20 * mel / math.log(10), "looks like decibels; the model expects natural log"),
    ],
)
def test_a_short_mel_is_told_by_its_smallest_value(make, words):
    """Fails if less than a second is not looked at: its values may be anything, but what a clamp makes is exact."""
    mel = torch.rand(80, 20, generator=torch.Generator().manual_seed(0)) * 8 - 7
    definition = LogMelSpectrogram(HIFIGAN)
    assert diagnose(mel, definition) is None
    mel[:2, :2] = math.log(1e-5)
    assert diagnose(mel, definition) is None
    assert re.match(words, diagnose(make(mel), definition))


def test_a_short_mel_is_told_by_its_statistics_if_it_is_a_clear_mistake(speech, statistics):
    definition = LogMelSpectrogram(HIFIGAN)
    pieces = [mel[:, start : start + 60] for mel in map(librosa_mel, speech) for start in range(0, mel.shape[1] - 60, 60)]
    assert [diagnose(piece, definition, statistics) for piece in pieces] == [None] * len(pieces)
    found = [diagnose(piece / math.log(10), definition, statistics) or "" for piece in pieces]
    assert sum(message.startswith("looks like log10") for message in found) > 0.7 * len(pieces)


def test_frames_that_pad_a_batch_are_noticed():
    mel, definition = torch.rand(80, 30) * 8 - 7, LogMelSpectrogram(HIFIGAN)
    mel[:, 25:] = 0
    assert diagnose(mel, definition).startswith("the last 5 frames are 0 in all bands (padding? The model expects -11.51")
    of_zeros = LogMelSpectrogram(preset("ivanvovk"))  # silence is 0 there
    assert "padding" not in (diagnose(mel, of_zeros) or "")


def test_without_statistics_only_the_impossible_is_noticed(speech):
    definition = LogMelSpectrogram(HIFIGAN)
    assert diagnose(librosa_mel(speech[3], clamp=1e-4, logarithm=np.log10), definition) is None
    assert "cannot be on the model's mel scale" in diagnose(librosa_mel(speech[3], clamp=1e-7), definition)


def test_statistics_are_those_of_all_frames_together():
    mels = [torch.randn(3, frames, generator=torch.Generator().manual_seed(frames)) * 2 - 5 for frames in (4, 9, 1)]
    everything = torch.cat(mels, dim=1).double()
    statistics = mel_statistics(iter(mels))
    assert statistics.n_frames == 14
    torch.testing.assert_close(torch.tensor(statistics.mean), everything.mean(1).float())
    torch.testing.assert_close(torch.tensor(statistics.std), everything.std(1, correction=0).float())
    assert (statistics.minimum, statistics.maximum) == (everything.min().item(), everything.max().item())
    with pytest.raises(InputError, match="no mel frames"):
        mel_statistics([])


def test_the_checkpoint_carries_the_statistics(tmp_path, tiny_network, tiny_config):
    statistics = mel_statistics([torch.randn(20, 9)])
    save_weights(tiny_network, tiny_config, tmp_path / "a.safetensors", statistics)
    assert read_checkpoint(tmp_path / "a.safetensors").mel_statistics == statistics
    texts = {"config": tiny_config.model_dump_json(), "mel_statistics": statistics.model_dump_json()}
    torch.save({"ema": tiny_network.state_dict(), **texts}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").mel_statistics == statistics


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "3 bands .expected: 20"),
        ({"std": (1.0,)}, "mean has 20 bands, std has 1"),
        ({"std": (-1.0,) * 20}, "std.0: .*greater than or equal to 0"),
        ({"extra": 1}, "extra"),
    ],
)
def test_damaged_statistics_are_refused_by_name(change, words):
    values = {**mel_statistics([torch.randn(20, 9)]).model_dump(), **change}
    with pytest.raises(InputError, match=f"a.pt: .*{words}") as error:
        parse_mel_statistics(json.dumps(values), 20, "a.pt")
    assert "\n" not in str(error.value)


def test_another_shape_is_said():
    turned = diagnose(torch.zeros(7, HIFIGAN.n_mels), LogMelSpectrogram(HIFIGAN))
    assert turned.startswith("frames along the first axis: shape [7, 80]; the model expects [80, frames]")
