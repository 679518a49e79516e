"""What is packed for another machine is all that a run needs there."""

import json
import shutil

import pytest

from common.errors import InputError
from runs.pack import main
from tests.training_fixtures import SAMPLE_RATE, new_trainer, speech, train_steps, write_corpus, write_run


@pytest.fixture
def config(tmp_path):
    """A run of three voices, the first without noise behind it, the others with ever more."""
    names = {"train": [f"{voice}/{i}" for i in range(4) for voice in "abc"], "validation": [f"{voice}/v" for voice in "abc"]}
    for name, of_list in names.items():
        for voice in "abc":
            (tmp_path / "run" / voice).mkdir(parents=True, exist_ok=True)
        noise = {"a": 0.0, "b": 0.003, "c": 0.03}
        recordings = {stem: speech(0.5, i) * 0.5 + noise[stem[0]] * (-1) ** i for i, stem in enumerate(of_list)}
        write_corpus(tmp_path / "run", recordings, name)
    (tmp_path / "run" / "s.json").write_text(json.dumps({"betas": [0.1, 0.9]}))
    return write_run(tmp_path / "run", training__infer_grad={"noise_schedule": ["s.json"]}, data__segment_frames=60)


def test_a_packed_run_trains_elsewhere(config, tmp_path):
    """Fails if a path leads out of the folder, or what is packed is more than was asked for."""
    assert main([str(config), str(tmp_path / "packed"), "--speakers", "2", "--weights", str(config)]) == 0
    shutil.rmtree(config.parent)
    folder = shutil.move(tmp_path / "packed", tmp_path / "elsewhere")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "config.json", "s.json", "train.txt", "validation.txt"]
    trainer = new_trainer(folder / "config.json")
    assert len(trainer.data.training) == 8 and len(trainer.data.validation) == 2 and trainer.config.mel.sample_rate == SAMPLE_RATE
    assert train_steps(trainer, 1)[0].updated


def test_there_is_a_limit_and_nothing_is_replaced(config, tmp_path):
    main([str(config), str(tmp_path / "packed"), "--speakers", "3", "--megabytes", "0.03"])
    assert 0 < len((tmp_path / "packed" / "train.txt").read_text().splitlines()) < 12
    assert sum(path.stat().st_size for path in (tmp_path / "packed").rglob("*.flac")) < 30_000
    with pytest.raises(InputError, match="expected a new folder"):
        main([str(config), str(tmp_path / "packed")])
