"""What the page of `runs/app.py` computes; gradio itself, which the tests do not install, is a stand-in with its error alone."""

import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

import runs.app


class Refused(Exception):
    """gradio.Error"""


@pytest.fixture
def app(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", types.SimpleNamespace(Error=Refused))
    return runs.app


@pytest.fixture
def recording(tmp_path):
    """A second of two channels at another sample rate, as a microphone may give it."""
    seconds = np.arange(16000) / 16000
    voice = 0.2 * np.sin(2 * np.pi * 150 * seconds) * np.sin(9 * seconds)
    soundfile.write(tmp_path / "voice.wav", np.stack([voice, voice], 1), 16000)
    return str(tmp_path / "voice.wav")


def run(app, recording, mel=None, seed=0, longest=3.0, schedule="schedules/wg-3.json"):
    return app.synthesize(longest, recording, mel, "checkpoints/universal-22k.safetensors", schedule, 0, app.OF_SCHEDULE, 0, seed)


def test_recording_gives_sounds_pictures_and_seconds(app, recording):
    given, (rate, result), mels, states, said = run(app, recording)
    assert given[0] == rate == 22050 and len(result) == len(given[1]) // 256 * 256 and result.dtype == np.int16
    assert len(states.axes) == 4, "y_3 to y_0"
    assert len(mels.axes) == 3 and "s of audio" in said


def test_mel_file_has_no_input_to_play(app, tmp_path):
    np.save(tmp_path / "mel.npy", np.full((80, 40), -5.0, np.float32))
    given, (_, result), *_ = run(app, None, str(tmp_path / "mel.npy"))
    assert given is None and len(result) == 40 * 256


@pytest.mark.parametrize("what", ["long", "nothing", "noise.txt"])
def test_refusals_are_one_line(app, recording, tmp_path, what):
    (tmp_path / "noise.txt").write_text("no mel")
    arguments = {"long": dict(recording=recording, longest=0.5), "nothing": dict(recording=None)}
    with pytest.raises(Refused) as refusal:
        run(app, **arguments.get(what, dict(recording=None, mel=str(tmp_path / "noise.txt"))))
    named = {"long": "voice.wav: 1.0 s (expected at most 0.5 s", "nothing": "no recording and no mel", "noise.txt": "noise.txt: not a file"}
    assert named[what] in str(refusal.value) and "\n" not in str(refusal.value)


def test_users_at_the_same_time_do_not_mix(app, recording):
    alone = [run(app, recording, seed=seed)[1][1] for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = [result[1][1] for result in pool.map(lambda seed: run(app, recording, seed=seed), (1, 2))]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together)) and not np.array_equal(*alone)
