"""The first thing that anyone runs: the demo, from its script to its table."""

import re
import shutil

import soundfile
import torch

from common.audio import read_audio
from model.checkpoint import load_network
from model.mel.input import read_mel
from model.mel.transform import LogMelSpectrogram
from tests.conftest import ROOT
from tests.test_scripts import clone, needs_venv, sh  # noqa: F401  (a fixture)


@needs_venv
def test_demo_vocodes_the_shipped_mels(clone):  # noqa: F811
    recordings = clone / "generated_samples" / "recordings"
    recordings.mkdir(parents=True)
    for suffix in (".npy", ".flac"):
        shutil.copy(ROOT / "generated_samples" / "recordings" / f"ru_0836{suffix}", recordings)
    shutil.copytree(ROOT / "checkpoints", clone / "checkpoints", ignore=shutil.ignore_patterns("*.pt"))

    result = sh("demo.sh", root=clone)
    assert result.returncode == 0, result.stderr
    rows = {line[11:39].strip(): line[39:].split() for line in result.stdout.splitlines() if line.startswith("mean")}
    assert set(rows) == {"WaveGrad, 6 steps", "and GLA-Grad, 8 iterations", "Griffin-Lim, 32 iterations"}
    for figures in rows.values():
        assert len(figures) == 4 and all(re.fullmatch(r"\d+\.\d{3}", figure) for figure in figures)

    output = clone / "generated_samples" / "demo"
    for name in ("ru_0836", "ru_0836-gla-grad"):
        assert soundfile.info(output / f"{name}.wav").frames == soundfile.info(recordings / "ru_0836.flac").frames
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_shipped_mels_are_those_of_the_shipped_recordings():
    _, config = load_network(ROOT / "checkpoints" / "small-16k.safetensors")
    paths = sorted((ROOT / "generated_samples" / "recordings").glob("*.npy"))
    assert len(paths) == 6
    for path in paths:
        mel = LogMelSpectrogram(config.mel)(read_audio(path.with_suffix(".flac"), config.mel.sample_rate))
        torch.testing.assert_close(mel, read_mel(path, config.mel.n_mels), atol=1e-3, rtol=0)
