"""The folder of a run, and what a checkpoint must hold for a run to go on from it."""

import contextlib
import errno
import time

import pytest
import torch

from common.errors import InputError
from model.checkpoint import load_training_state
from model.config import load_config
from tests.processes import kill, start_processes, wait_for
from tests.training_fixtures import same, train_to_end, weights_of, write_run
from training.checkpointing import RunFolder, changes
from training.safety import StabilityGuard


def state_at(step):
    """A training state of no network at all, but of the right types."""
    return {
        **{name: {} for name in ("network", "optimizer", "lr_scheduler", "scaler", "versions")},
        **{"step": step, "position": 4 * step, "n_rollbacks": 0, "best_validation_loss": None, "config": "{}"},
        "ema": {"weight": torch.full((50,), float(step))},
        "stability": StabilityGuard(5, 3.0).state_dict(),
        "rng": {"cpu": torch.get_rng_state(), "cuda": None},
    }


@pytest.fixture
def folder(tmp_path):
    """A run's folder with checkpoints of steps 1, 2 and 3."""
    with contextlib.closing(RunFolder(tmp_path / "log", keep=3)) as folder:
        folder.open()
        for step in (1, 2, 3):
            folder.save(state_at(step))
        yield folder


def flipped(content):
    position = content.index(b"\x00\x00\x40\x40" * 8)  # in the weights
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], flipped, lambda content: b"no checkpoint"])
def test_damaged_checkpoint_is_passed_over(folder, damage):
    """Fails if a damaged file is trusted (PyTorch loads a flipped byte without a word), or if a run begins anew where all are."""
    *others, newest = folder.checkpoints()
    newest.write_bytes(damage(newest.read_bytes()))
    path, state, warnings = folder.newest()
    assert state["step"] == 2
    assert len(warnings) == 1 and str(newest) in warnings[0] and "\n" not in warnings[0]
    for path in others:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 3 checkpoints can be used"):
        folder.newest()


def test_a_drive_without_locks_is_trained_on_with_a_warning(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with contextlib.closing(RunFolder(tmp_path / "log", keep=3)) as folder:
        [warning] = folder.open()
        assert "log: this drive has no locks" in warning


def hold(logdir):
    folder = RunFolder(logdir, 3)
    folder.open()
    (folder.path / "held").touch()
    time.sleep(600)


def test_folder_in_use_is_refused(tmp_path):
    """Fails if two runs write into the same folder; and the lock must end with the process that held it."""
    holder = start_processes(hold, tmp_path)
    wait_for((tmp_path / "held").exists)
    with contextlib.closing(RunFolder(tmp_path, 3)) as folder:
        with pytest.raises(InputError, match="another process is training there"):
            folder.open()
        kill(holder)
        folder.open()


def test_only_numbered_files_are_checkpoints(folder):
    """Fails if a file of the user's is resumed from, counted among those kept, or removed."""
    own = ["checkpoint-best.pt", "checkpoint-00000005 copy.pt", "checkpoint-5.pt", "xcheckpoint-00000009.pt"]
    for name in own:
        (folder.path / name).write_bytes(folder.checkpoints()[0].read_bytes())
    (folder.path / "checkpoint-00000009.pt").mkdir()
    assert [path.name for path in folder.checkpoints()] == [f"checkpoint-{step:08d}.pt" for step in (1, 2, 3)]
    assert folder.newest()[1]["step"] == 3
    folder.save(state_at(4))
    folder.discard_after(folder.checkpoints()[0], 4)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-00000002.pt"]
    for step in (99_999_999, 100_000_000):  # as text, the second is the smaller name
        folder.save(state_at(step))
    assert folder.newest()[1]["step"] == 100_000_000
    assert all((folder.path / name).exists() for name in own)


def test_saving_keeps_what_it_wrote(tmp_path):
    """Fails if pruning removes the new checkpoint and keeps a damaged one, or one of another run, with a larger number."""
    with contextlib.closing(RunFolder(tmp_path / "log", keep=1)) as folder:
        folder.open()
        later = folder.path / "checkpoint-00000099.pt"
        for content in (b"damaged", folder.save(state_at(6)).read_bytes()):
            later.write_bytes(content)
            folder.save(state_at(10))
            folder.discard_after(folder.path / "checkpoint-00000010.pt", step=20)
            assert [path.name for path in folder.checkpoints()] == ["checkpoint-00000010.pt", later.name]
            path, state, [line] = folder.newest()  # nor is one under the name of another step read
            assert state["step"] == 10 and str(later) in line
    assert line == f"warning: {later}: expected step 99, as in its name, got step 6; the one before is used"


def test_only_leftovers_of_saving_are_removed(folder):
    """Fails if a folder or file of the user's own ends the run or is lost."""
    folder.close()
    (folder.path / ".0123456789ab.tmp").mkdir()
    (folder.path / ".notes.tmp").write_text("mine")
    (folder.path / ".ba9876543210.tmp").write_text("left by a kill")
    folder.open()
    assert sorted(path.name for path in folder.path.glob(".*.tmp")) == [".0123456789ab.tmp", ".notes.tmp"]


@pytest.mark.parametrize("name", ["best.pt", "checkpoint-best.pt", "released.safetensors"])
def test_folder_of_other_weights_is_refused(tmp_path, name):
    """Fails if a run begins anew there and writes over `best.pt`."""
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(InputError, match=f"expected .*, got .*'{name}'"):
        RunFolder(tmp_path, 3).open()
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.fixture(scope="module")
def five_steps(tmp_path_factory):
    """Configuration of a run of ten steps, and its checkpoint of step 5."""
    folder = tmp_path_factory.mktemp("five")
    train_to_end(write_run(folder, n_steps=5, validate_every=5), folder / "log")
    return write_run(folder, n_steps=10, validate_every=5), folder / "log" / "checkpoint-00000005.pt"


def resumed(five_steps, logdir, spoil=lambda state: None, config=None):
    """Goes on from the checkpoint, changed by `spoil`, in `logdir`; returns what was said."""
    logdir.mkdir()
    state = load_training_state(five_steps[1])
    spoil(state)
    torch.save(state, logdir / five_steps[1].name)
    return train_to_end(config or five_steps[0], logdir)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.update(step="five"),
        lambda state: state.pop("stability"),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda state: state["rng"].update(cpu=[1, 2, 3]),
        lambda state: state.update(network={"weight": 1}),
    ],
    ids=["step", "no guard", "moments", "random state", "weights"],
)
def test_checkpoint_with_wrong_entries(five_steps, tmp_path, spoil):
    """Fails if what a file holds in place of an entry becomes a traceback, then or at the first step."""
    with pytest.raises(InputError) as error:
        resumed(five_steps, tmp_path / "log", spoil)
    assert str(tmp_path / "log") in str(error.value) and "\n" not in str(error.value)


def make_older(state):
    """As an older version wrote it."""
    state["lr_scheduler"] = {"last_epoch": state.pop("n_updates"), "base_lrs": [2e-3]}
    for key in ("mel_statistics", "starts"):
        del state[key]


def test_checkpoints_of_older_versions_are_read(five_steps, tmp_path):
    """Fails if the run ends elsewhere."""
    for name, spoil in [("old", make_older), ("new", lambda state: None)]:
        assert "going on from" in resumed(five_steps, tmp_path / name, spoil)
    old, new = (weights_of(tmp_path / name / "checkpoint-00000010.pt") for name in ("old", "new"))
    assert same(old, new)


@pytest.mark.parametrize(
    "section, key, old, new",
    [
        ("network", "upsampling_channels", (8, 8, 8), (8, 8, 6)),
        ("mel", "f_max", 4000.0, 3000.0),
        ("noise_schedule", "stop", 0.01, 0.02),
        ("training", "seed", 0, 1),
    ],
)
def test_another_run_is_refused(tmp_path, section, key, old, new):
    """Fails if a run is continued as something else; key and both values are named."""
    before, after = (load_config(write_run(tmp_path, **{f"{section}__{key}": value})) for value in (old, new))
    with pytest.raises(InputError) as error:
        changes({"config": before.model_dump_json()}, after, "a.pt")
    assert all(word in str(error.value) for word in (f"{section}.{key}", str(old), str(new), "a.pt"))


def test_harmless_changes_are_accepted_and_said(five_steps, tmp_path):
    """Fails if an example is repeated or left out after a change of the batch, or if all stages are printed for one key."""
    said = resumed(five_steps, tmp_path / "log", config=write_run(tmp_path, batch_size=6, n_steps=7))
    for line in ("training.batch_size was 4, is 6", "training.n_steps was 5, is 7"):
        assert f"changed since checkpoint-00000005.pt: {line}" in said
    state = RunFolder(tmp_path / "log", 3).newest()[1]
    assert (state["step"], state["position"]) == (7, 5 * 4 + 2 * 6)
    old, new = (load_config(write_run(tmp_path, n_steps=n, stages=[{"n_steps": n}])) for n in (4, 6))
    lines = changes({"config": old.model_dump_json()}, new, "a.pt")
    assert lines == [f"changed since a.pt: training.{key} was 4, is 6" for key in ("n_steps", "stages.1.n_steps")]
