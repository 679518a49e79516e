"""The recordings of a run: bad ones are one line, pairs with mel files train on these, speakers count evenly."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import InputError, describe
from datasets import Recordings, read_mel_paths
from model.mel import LogMelSpectrogram
from tests.training_fixtures import SAMPLE_RATE, first_batch, new_trainer, speech, train_to_end, write_corpus, write_pairs, write_run
from training.previews import make_previews, preview_pipelines
from training.trainer import Trainer


def write_stereo(folder):
    soundfile.write(folder / "train_0.wav", np.repeat(speech(0.6, 0)[:, None], 2, 1), 2 * SAMPLE_RATE)


def lengthened(mel):
    return torch.cat([mel, mel[:, :3]], 1)


@pytest.mark.parametrize(
    "spoil, changes, words",
    [
        (lambda folder: (folder / "train_1.wav").unlink(), {}, "train_1.wav: No such file"),
        (lambda folder: (folder / "train.txt").unlink(), {}, "train.txt: No such filelist; `sh runs/make_filelists.sh FOLDER`"),
        (write_stereo, {}, "train_0.wav: sample rate is 16000 Hz .*data.resample"),
        (write_stereo, {"data__resample": True}, "train_0.wav: 2 channels .*data.mix_to_mono"),
        (write_pairs, {"data__low_pass_share": 0.5}, "data.low_pass_share: expected 0 where mels are read from files, got 0.5"),
        (lambda folder: write_pairs(folder, change=lengthened), {}, "train_0.npy: 63 frames of 40 samples, .*has 2400 .*within 2 frames"),
        (lambda folder: write_pairs(folder, change=lambda mel: mel[:, 3:]), {}, "train_0.npy: 57 frames of 40 samples"),
        (lambda folder: None, {"precision": "fp16"}, "training.precision: expected fp32 or bf16 on a CPU, got fp16"),
    ],
)
def test_what_cannot_be_trained_on(tmp_path, spoil, changes, words):
    """Found before the first step, and named."""
    config = write_run(tmp_path, **changes)
    spoil(tmp_path)
    with pytest.raises((InputError, OSError)) as error:
        new_trainer(config)
    assert re.search(words, describe(error.value))


def test_recordings_of_another_form_are_trained_on_on_request(tmp_path):
    """Fails if `data.resample` or `data.mix_to_mono` does not reach the recordings."""
    config = write_run(tmp_path, data__resample=True, data__mix_to_mono=True)
    write_stereo(tmp_path)
    assert len(new_trainer(config).data.training[0]) == 0.3 * SAMPLE_RATE


@pytest.mark.parametrize("change, n_frames", [(lambda mel: torch.cat([mel, mel[:, :1]], 1), 60), (lambda mel: mel[:, 1:], 59)])
def test_a_mel_of_a_frame_more_or_less_is_cut(tmp_path, change, n_frames):
    write_run(tmp_path)
    config = write_pairs(tmp_path, change=change)
    assert Recordings(tmp_path / "train.txt", config.mel).n_samples == [40 * n_frames] * 6


def test_validation_recordings_that_train_are_said(tmp_path):
    config = write_run(tmp_path)
    assert new_trainer(config).data.warnings() == []
    (tmp_path / "validation.txt").write_text("train_2.wav\nvalidation_0.wav\n")
    [warning] = new_trainer(config).data.warnings()
    assert warning.startswith("warning: 1 of 2 validation recordings are training recordings too: ")


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
    """In training and in previews; and the statistics of the mels are theirs."""
    plain = json.loads(new_trainer(write_run(tmp_path)).data.mel_statistics())
    for of_list in ("validation", "train"):
        config = write_pairs(tmp_path, of_list, change=lambda mel: mel + 1)
    trainer = Trainer(config, tmp_path)
    batch = first_batch(trainer)
    torch.testing.assert_close(trainer.prepare(batch).mel, trainer.mel_transform.from_padded(batch.segment) + 1, atol=1e-4, rtol=0)
    [preview] = make_previews(trainer, preview_pipelines(trainer), 1)
    torch.testing.assert_close(preview.recording_mel, trainer.mel_transform(preview.recording) + 1, atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.array(json.loads(trainer.data.mel_statistics())["mean"]) - 1, plain["mean"], atol=1e-4)


def test_mels_of_another_definition_are_said(tmp_path):
    """Fails if a run trains on mels in decibels without a word."""
    write_run(tmp_path)
    assert Trainer(write_pairs(tmp_path), tmp_path).data.warnings() == []
    [warning] = Trainer(write_pairs(tmp_path, change=lambda mel: mel * 20 / np.log(10)), tmp_path).data.warnings()
    assert warning.startswith("warning: 6 of 6 mel files: ") and "train_0.npy" in warning


def test_all_lines_of_a_list_are_pairs_or_none(tmp_path):
    path = tmp_path / "list.txt"
    for lines, words in [("a.wav|a.npy\nb.wav|what is said\n", "names no mel file"), ("a.wav\nb.wav|b.pt\n", "names a mel file")]:
        path.write_text(lines)
        with pytest.raises(InputError, match=f"list.txt: line 2 {words}"):
            read_mel_paths(path)
    for lines, paths in [("a.wav|text\nb.wav\n", None), ("a.wav|sub/a.NPY|text\n", [tmp_path / "sub" / "a.NPY"])]:
        path.write_text(lines)
        assert read_mel_paths(path) == paths


def test_speakers_are_drawn_evenly_and_have_figures_of_their_own(tmp_path):
    """Fails if `data.even_over_speakers` is not heeded, or a speaker's loss is not in TensorBoard."""
    config = write_run(tmp_path, data__even_over_speakers=True, n_steps=2)
    for name in ("train", "validation"):
        lists = []
        for k, (speaker, n_recordings) in enumerate({"anna": 5, "bert": 1}.items()):
            stems = {f"{name}_{i}": speech(0.3, 10 * k + i) for i in range(n_recordings)}
            lists += [f"{speaker}/{stem}.wav\n" for stem in stems]
            write_corpus(tmp_path / speaker, stems)
        (tmp_path / f"{name}.txt").write_text("".join(lists))
    data = new_trainer(config).data
    drawn = [data.training.speakers[data.examples(data.config.data).recording_of(number)] for number in range(40)]
    assert drawn.count("anna") == drawn.count("bert") == 20
    train_to_end(config, tmp_path / "log")
    tags = EventAccumulator(str(tmp_path / "log")).Reload().Tags()["scalars"]
    assert {"validation_loss_by_speaker/anna", "validation_loss_by_speaker/bert"} <= set(tags)
