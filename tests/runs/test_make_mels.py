"""Mel files of recordings: what inference computes of them, and nothing of the user's is lost."""

import numpy as np
import pytest
import torch

from common.audio import read_audio
from model.mel import LogMelSpectrogram, read_mel
from runs.make_mels import main


@pytest.fixture
def folder(tmp_path, write_recording):
    for name, rate in [("a/x.wav", 8000), ("b/x.flac", 8000), ("y.wav", 8000)]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_recording(tmp_path / "in" / name, seconds=0.3, sample_rate=rate)
    return tmp_path


def test_a_mel_is_that_of_the_definition(folder, tiny_checkpoint, tiny_config, capsys):
    """Fails if file names collide, or the mel is another than the one that resynthesis computes."""
    assert main(["-ch", str(tiny_checkpoint), "-m", str(folder / "in"), "-o", str(folder / "out")]) == 0
    assert "3 mels" in capsys.readouterr().out
    found = sorted(str(path.relative_to(folder / "out")) for path in folder.glob("out/**/*.npy"))
    assert found == ["a/x.npy", "b/x.npy", "y.npy"]
    wanted = LogMelSpectrogram(tiny_config.mel)(read_audio(folder / "in/a/x.wav", 8000))
    assert torch.equal(read_mel(folder / "out/a/x.npy", 20), wanted)


def test_a_second_time_nothing_changes_and_nothing_else_is_replaced(folder, tiny_checkpoint, capsys):
    options = ["-ch", str(tiny_checkpoint), "-m", str(folder / "in"), "-o", str(folder / "out")]
    assert main(options) == main(options) == 0
    np.save(folder / "out" / "y.npy", np.zeros(3))
    (folder / "out" / "a" / "x.npy").write_text("notes")
    assert main(options) == 1
    errors = capsys.readouterr().err.splitlines()
    for damaged in (b"PK\3\4" + bytes(50), b"\x93NUMPY\1\0\x10\0{'descr': (((((\n"):
        (folder / "out" / "b" / "x.npy").write_bytes(damaged)
        assert main(options) == 2
        assert "x.npy: is there already" in capsys.readouterr().err and (folder / "out" / "b" / "x.npy").read_bytes() == damaged
    assert len(errors) == 2 and all("is there already" in line and "expected: another --output_dir" in line for line in errors)
    assert (folder / "out" / "a" / "x.npy").read_text() == "notes" and len(np.load(folder / "out" / "y.npy")) == 3


def test_recordings_of_another_rate_are_refused_or_converted(folder, write_recording, tiny_checkpoint, capsys):
    write_recording(folder / "in" / "z.wav", seconds=0.3, sample_rate=16000)
    options = ["-ch", str(tiny_checkpoint), "-m", str(folder / "in" / "z.wav"), "-o", str(folder / "out")]
    assert main(options) == 2
    assert "z.wav: sample rate is 16000 Hz" in capsys.readouterr().err and not (folder / "out").exists()
    assert main([*options, "--resample"]) == 0
    assert read_mel(folder / "out" / "z.npy", 20).shape == (20, 60)
