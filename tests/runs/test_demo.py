"""The first thing that anyone runs: the demo, from its script to its table."""

import re
import shutil

import soundfile
import torch

from common.audio import read_audio
from extensions.registry import load_network
from model.mel import LogMelSpectrogram, read_mel
from tests.conftest import ROOT
from tests.runs.test_scripts import clone, needs_venv, sh  # noqa: F401  (a fixture)

VOICES = ROOT / "generated_samples" / "voices"


@needs_venv
def test_demo_vocodes_the_shipped_mels(clone):  # noqa: F811
    """One with its recording and one without: it has no figure that needs the recording, and counts in no mean of one."""
    voices = clone / "generated_samples" / "voices"
    voices.mkdir(parents=True)
    for name in ("english-joe.npy", "english-joe.flac", "bulgarian-petkov.npy"):
        shutil.copy(VOICES / name, voices)
    shutil.copytree(ROOT / "checkpoints", clone / "checkpoints", ignore=shutil.ignore_patterns("*.pt"))

    result = sh("demo.sh", root=clone)
    assert result.returncode == 0, result.stderr
    lines = [(line[:18].strip(), line[18:46].strip(), line[46:].split()) for line in result.stdout.splitlines()]
    rows = {name: {system: figures for voice, system, figures in lines if voice == name} for name, _, _ in lines}
    for name in ("english-joe", "bulgarian-petkov", "mean"):
        assert list(rows[name]) == ["WaveGrad, 1 step", "Griffin-Lim, 32 iterations"]
        for system, figures in rows[name].items():
            assert len(figures) == 4 and all(re.fullmatch(r"\d+\.\d{3}|-", figure) for figure in figures)
            assert [figure == "-" for figure in figures] == [name == "bulgarian-petkov"] * 2 + [False] * 2
            assert name != "mean" or figures[:2] == rows["english-joe"][system][:2]

    output = clone / "generated_samples" / "demo"
    for name in ("english-joe", "bulgarian-petkov"):
        frames = read_mel(VOICES / f"{name}.npy", 80).shape[1]
        assert soundfile.info(output / f"{name}.wav").frames == 256 * frames
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_shipped_mels_are_those_of_the_shipped_recordings():
    for checkpoint, folder, n_mels, n_recordings in (("small-16k", "recordings", 6, 6), ("universal-22k", "voices", 7, 3)):
        _, config = load_network(ROOT / "checkpoints" / f"{checkpoint}.safetensors")
        mels = sorted((ROOT / "generated_samples" / folder).glob("*.npy"))
        recordings = sorted((ROOT / "generated_samples" / folder).glob("*.flac"))
        assert (len(mels), len(recordings)) == (n_mels, n_recordings)
        for path in recordings:
            mel = LogMelSpectrogram(config.mel)(read_audio(path, config.mel.sample_rate))
            torch.testing.assert_close(mel, read_mel(path.with_suffix(".npy"), config.mel.n_mels), atol=1e-3, rtol=0)
