"""Training on pairs of a recording and a mel file, such as the teacher-forced mels of a TTS model, and on several speakers."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.audio import read_audio
from common.errors import InputError
from datasets import Recordings, read_filelist, read_mel_paths
from model.config import load_config
from model.mel import LogMelSpectrogram
from tests.training_fixtures import one_thread, same, speech, train_to_end, weights_of, write_corpus, write_run  # noqa: F401
from training.previews import make_previews, preview_pipeline
from training.trainer import Trainer


def write_pairs(folder, name="train", change=lambda mel: mel):
    """Turns a list of recordings into one of pairs, with `change(mel)` of their mels; returns the configuration."""
    config = load_config(folder / "config.json")
    mel = LogMelSpectrogram(config.mel)
    lines = []
    for path in read_filelist(folder / f"{name}.txt"):
        np.save(path.with_suffix(".npy"), change(mel(read_audio(path, config.mel.sample_rate))).numpy())
        lines.append(f"{path.name}|{path.stem}.npy|what is said\n")
    (folder / f"{name}.txt").write_text("".join(lines))
    return config


def test_a_segment_has_the_frames_of_its_samples(tmp_path):
    """Fails if the mel is of another place than the samples, or past the end of the recording is not silence."""
    write_run(tmp_path)
    config = write_pairs(tmp_path)
    recordings = Recordings(tmp_path / "train.txt", config.mel)
    mel = LogMelSpectrogram(config.mel)
    for seed in range(10):
        segment, given = recordings.segment(seed % 6, 12, mel.context, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(given, mel.from_padded(segment), atol=1e-4, rtol=0)
    segment, given = recordings.segment(0, 90, (0, 0), torch.Generator())
    assert given.shape == (20, 90) and segment.shape == (3600,)
    assert (given[:, 60:] == recordings.mel(0).min()).all() and (segment[2400:] == 0).all()


def test_the_network_is_given_the_mel_of_the_file(tmp_path):
    write_run(tmp_path)
    for of_list in ("validation", "train"):
        config = write_pairs(tmp_path, of_list, change=lambda mel: mel + 1)
    trainer = Trainer(config, tmp_path)
    batch = next(iter(trainer.batches()))
    _, mel = trainer._given(batch)
    computed = trainer.mel_transform.from_padded(batch.segment)
    torch.testing.assert_close(mel, computed + 1, atol=1e-4, rtol=0)
    [preview] = make_previews(trainer, preview_pipeline(trainer), 1)
    torch.testing.assert_close(preview.recording_mel, trainer.mel_transform(preview.recording) + 1, atol=1e-4, rtol=0)
    statistics = json.loads(trainer.mel_statistics())
    plain = json.loads(Trainer(load_config(write_run(tmp_path / "plain")), tmp_path / "plain").mel_statistics())
    np.testing.assert_allclose(np.array(statistics["mean"]) - 1, plain["mean"], atol=1e-4)


def test_mels_that_fit_train_as_computed_ones_do(tmp_path):
    """Fails if pairs draw other examples."""
    for name in ("plain", "pairs"):
        (tmp_path / name).mkdir()
        config = write_run(tmp_path / name, training__n_steps=2, training__n_previews=1)
        if name == "pairs":
            for of_list in ("train", "validation"):
                write_pairs(tmp_path / name, of_list)
        train_to_end(config, tmp_path / name / "log")
    plain, pairs = (weights_of(tmp_path / name / "log" / "checkpoint-00000002.pt") for name in ("plain", "pairs"))
    for key, tensor in plain["ema"].items():
        torch.testing.assert_close(pairs["ema"][key], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_more", [-3, 3])
def test_a_mel_of_another_length_is_refused(tmp_path, n_more):
    def change(mel):
        return mel[:, :n_more] if n_more < 0 else torch.cat([mel, mel[:, :n_more]], 1)

    write_run(tmp_path)
    config = write_pairs(tmp_path, change=change)
    words = rf"train_0.npy: {60 + n_more} frames of 40 samples, but .*train_0.wav has 2400 samples .*within 2 frames"
    with pytest.raises(InputError, match=words):
        Trainer(config, tmp_path)


def test_a_frame_more_or_less_is_cut(tmp_path):
    write_run(tmp_path)
    config = write_pairs(tmp_path, change=lambda mel: torch.cat([mel, mel[:, :1]], 1))
    assert Recordings(tmp_path / "train.txt", config.mel).n_samples == [2400] * 6
    write_run(tmp_path / "shorter")
    config = write_pairs(tmp_path / "shorter", change=lambda mel: mel[:, 1:])
    assert Recordings(tmp_path / "shorter" / "train.txt", config.mel).n_samples == [59 * 40] * 6


def test_mels_of_another_definition_are_said(tmp_path):
    """Fails if a run trains on mels in decibels without a word."""
    write_run(tmp_path)
    config = write_pairs(tmp_path)
    assert Trainer(config, tmp_path).warnings() == []
    write_run(tmp_path / "decibels")
    config = write_pairs(tmp_path / "decibels", change=lambda mel: mel * 20 / np.log(10))
    [warning] = Trainer(config, tmp_path / "decibels").warnings()
    assert warning.startswith("warning: 6 of 6 mel files: ") and "train_0.npy" in warning


def test_all_lines_of_a_list_are_pairs_or_none(tmp_path):
    (tmp_path / "list.txt").write_text("a.wav|a.npy\nb.wav|what is said\n")
    with pytest.raises(InputError, match="list.txt: line 2 names no mel file"):
        read_mel_paths(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.wav\nb.wav|b.pt\n")
    with pytest.raises(InputError, match="list.txt: line 2 names a mel file"):
        read_mel_paths(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.wav|text\nb.wav\n")
    assert read_mel_paths(tmp_path / "list.txt") is None
    (tmp_path / "list.txt").write_text("a.wav|sub/a.NPY|text\n")
    assert read_mel_paths(tmp_path / "list.txt") == [tmp_path / "sub" / "a.NPY"]


def test_speakers_are_drawn_evenly_and_have_figures_of_their_own(tmp_path):
    """Fails if `data.even_over_speakers` is not heeded, or a speaker's loss is not in TensorBoard."""
    config = write_run(tmp_path, data__even_over_speakers=True, training__n_steps=2)
    for name in ("train", "validation"):
        lists = []
        for k, (speaker, n_recordings) in enumerate({"anna": 5, "bert": 1}.items()):
            stems = {f"{name}_{i}": speech(0.3, 10 * k + i) for i in range(n_recordings)}
            lists += [f"{speaker}/{stem}.wav\n" for stem in stems]
            write_corpus(tmp_path / speaker, stems)
        (tmp_path / f"{name}.txt").write_text("".join(lists))
    trainer = Trainer(load_config(config), tmp_path)
    drawn = [trainer.recordings.speakers[trainer.examples.recording_of(number)] for number in range(40)]
    assert drawn.count("anna") == drawn.count("bert") == 20
    train_to_end(config, tmp_path / "log")
    tags = EventAccumulator(str(tmp_path / "log")).Reload().Tags()["scalars"]
    assert {"validation_loss_by_speaker/anna", "validation_loss_by_speaker/bert"} <= set(tags)
