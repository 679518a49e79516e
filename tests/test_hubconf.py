"""`torch.hub.load` gives a vocoder to a program elsewhere."""

import warnings

import numpy as np
import pytest

import hubconf
from common.released import CHECKPOINT, SCHEDULE
from model.mel import read_mel
from tests.conftest import ROOT
from tests.processes import PYTHON, run_to_end

MEL = read_mel(ROOT / "generated_samples" / "voices" / "english-lj.npy", 80)[:, :120]


def test_a_program_elsewhere_vocodes_with_it(tmp_path):
    """Fails if the entry needs the repository as the working folder or on the path, or imports something of it late."""
    np.save(tmp_path / "mel.npy", MEL.numpy())
    code = (
        "import numpy, torch\n"
        f"vocoder = torch.hub.load({str(ROOT)!r}, 'wavegrad', source='local', trust_repo=True)\n"
        "waveform = vocoder(numpy.load('mel.npy'))\n"
        "print(vocoder)\n"
        "print(tuple(waveform.shape), float(waveform.abs().max()) > 0.01)\n"
    )
    result = run_to_end(PYTHON, "-c", code, cwd=tmp_path, env={"PYTHONPATH": "", "HOME": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    hop_length = hubconf.wavegrad(device="cpu").mel_transform.config.hop_length
    described, found = result.stdout.splitlines()
    assert f"mel [80, frames] or [B, 80, frames] -> waveform [frames * {hop_length}]" in described
    assert found == f"({120 * hop_length},) True"


def test_it_uses_the_released_model():
    vocoder = hubconf.wavegrad(device="cpu")
    assert CHECKPOINT.exists() and vocoder.schedule.name == SCHEDULE.stem
    assert vocoder.pipeline.correction is None and hubconf.wavegrad(device="cpu", gla_grad=8).pipeline.correction.n_iter == 8
    assert vocoder.mel_statistics is not None, "a wrong mel would not be noticed"


def test_a_wrong_mel_is_diagnosed_and_the_rate_named():
    vocoder = hubconf.wavegrad(device="cpu")
    config = vocoder.mel_transform.config
    with pytest.warns(UserWarning, match=f"{config.sample_rate:,} Hz, hop {config.hop_length}"):
        vocoder(MEL * 8.686)  # decibels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocoder(MEL)
