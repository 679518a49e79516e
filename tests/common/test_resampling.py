"""A recording of another sample rate is converted on request, a part of it as the whole."""

import numpy as np
import pytest
import soundfile
import torch

from common.audio import Conversions, check_audio, read_audio
from common.errors import InputError
from tests.conftest import with_flac_length

RESAMPLE = Conversions(resample=True)


@pytest.fixture(params=[44100, 48000, 16000, 22050, 11127])
def recording(request, tmp_path):
    audio = 0.1 * np.random.default_rng(0).standard_normal(3 * request.param + 17)
    soundfile.write(tmp_path / "a.flac", audio, request.param)
    return tmp_path / "a.flac"


def test_a_part_is_that_of_the_whole(recording):
    """Fails if a segment lies between the samples of the whole, or its ends are those of a shorter recording."""
    if soundfile.info(recording).samplerate != 22050:
        with pytest.raises(InputError, match="sample rate is .*expected: 22050 Hz; --resample, or data.resample in a config"):
            read_audio(recording, 22050)
    whole = read_audio(recording, 22050, RESAMPLE)
    n_samples, _ = check_audio(recording, 22050, RESAMPLE)
    assert len(whole) == n_samples == soundfile.info(recording).frames * 22050 // soundfile.info(recording).samplerate
    for start, stop in [(0, 1), (0, 5000), (20_001, 43_210), (n_samples - 300, n_samples)]:
        torch.testing.assert_close(read_audio(recording, 22050, RESAMPLE, start, stop), whole[start:stop], atol=1e-6, rtol=0)


def test_of_unknown_length(tmp_path):
    soundfile.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(48000), 48000)
    whole = read_audio(tmp_path / "a.flac", 22050, RESAMPLE)
    with_flac_length(tmp_path / "a.flac", 0)
    assert check_audio(tmp_path / "a.flac", 22050, RESAMPLE)[0] == len(whole)
    assert torch.equal(read_audio(tmp_path / "a.flac", 22050, RESAMPLE, 7000, 9000), whole[7000:9000])


def test_a_tone_stays_and_what_is_too_high_goes(tmp_path):
    """Fails if the result is of another pitch or level, or frequencies are folded down."""
    time = np.arange(48000) / 48000
    soundfile.write(tmp_path / "a.wav", 0.2 * np.sin(2 * np.pi * 1000 * time) + 0.2 * np.sin(2 * np.pi * 15000 * time), 48000, "FLOAT")
    audio = read_audio(tmp_path / "a.wav", 16000, RESAMPLE)
    wanted = 0.2 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    np.testing.assert_allclose(audio[1000:-1000], wanted[1000:-1000], atol=1e-6)
