"""What a user can get wrong is one line and status 2, and what a run shows is there."""

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.run import parse_args

import train
from common.errors import InputError, run_command
from model.config import load_config
from tests.conftest import ROOT
from tests.processes import TRAINING, finish, kill, run_to_end, start_processes, wait_for
from tests.training_fixtures import SAMPLE_RATE, speech, train_command, train_to_end, write_run
from training import launch, run_folder
from training.previews import Preview, preview_names
from training.run_folder import RunFolder
from training.statistics import BAND_NAMES
from training.trainer import Trainer


def command(monkeypatch, capsys, *arguments):
    """Runs `train.py` here; returns status, output and error output."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_status:
        run_command(train.main)
    captured = capsys.readouterr()
    return exit_status.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of ten steps, in `log` beside its configuration, with previews; and what it said."""
    folder = tmp_path_factory.mktemp("trained")
    changes = {"training__n_steps": 10, "training__n_previews": 2, "training__validate_every": 5}
    config = write_run(folder, **changes)
    return config, folder / "log", train_to_end(config, folder / "log")


def vanish(folder):
    (folder / "train_1.wav").unlink()


def another_rate(folder):
    soundfile.write(folder / "train_1.wav", speech(0.3, 0), 2 * SAMPLE_RATE)


def stereo(folder):
    soundfile.write(folder / "train_1.wav", torch.zeros(4000, 2).numpy(), SAMPLE_RATE)


def not_audio(folder):
    (folder / "train_1.wav").write_text("not audio")


def empty_list(folder):
    (folder / "train.txt").write_text("\n")


def folder_for_list(folder):
    (folder / "train.txt").unlink()
    (folder / "train.txt").mkdir()


@pytest.mark.parametrize(
    "spoil, words",
    [
        (vanish, "train_1.wav: No such file"),
        (another_rate, "sample rate is 16000 Hz (wanted: 8000 Hz;"),
        (stereo, "2 channels"),
        (not_audio, "not a readable audio file"),
        (empty_list, "train.txt: the filelist is empty"),
        (folder_for_list, "train.txt: the folder holds no files to read"),
    ],
)
def test_bad_data(tmp_path, monkeypatch, capsys, spoil, words):
    """Found before the first step, and named."""
    config = write_run(tmp_path)
    spoil(tmp_path)
    status, output, errors = command(monkeypatch, capsys, "-c", config, "-l", tmp_path / "log")
    assert (status, output) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1 and words in errors


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"training__precision": "fp16"}, "training.precision is fp16, which needs a GPU"),
        ({"training__precision": "fp8"}, "training.precision"),
        ({"training__batch_size": 0}, "training.batch_size"),
        ({"training__micro_batch_size": 0}, "training.micro_batch_size"),
        ({"training__bach_size": 4}, "unknown key 'training.bach_size'"),
        ({"mel__hop_length": 25}, "mel.hop_length is 25"),
    ],
)
def test_bad_configuration(tmp_path, monkeypatch, capsys, changes, words):
    config = write_run(tmp_path, **changes)
    status, output, errors = command(monkeypatch, capsys, "-c", config, "-l", tmp_path / "log")
    assert (status, output) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1 and words in errors


def changed_copy(config, **changes):
    """Another configuration beside `config`, with other values."""
    content = json.loads(config.read_text())
    for key, value in changes.items():
        section, name = key.split("__")
        content[section][name] = value
    path = config.with_name("changed.json")
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "changes, key, old, new",
    [
        ({"network__upsampling_channels": [8, 8, 6]}, "network.upsampling_channels", "(8, 8, 8)", "(8, 8, 6)"),
        ({"mel__f_max": 3000.0}, "mel.f_max", "4000.0", "3000.0"),
        ({"mel__clamp_min": 1e-4}, "mel.clamp_min", "1e-10", "0.0001"),
        ({"noise_schedule__stop": 0.02}, "noise_schedule.stop", "0.01", "0.02"),
        ({"training__seed": 1}, "training.seed", "0", "1"),
    ],
)
def test_another_run_is_refused(trained, monkeypatch, capsys, changes, key, old, new):
    """Fails if a run is continued as something else, or its folder overwritten; key and both values are named."""
    config, logdir, _ = trained
    before = {path: path.read_bytes() for path in logdir.iterdir()}
    status, output, errors = command(monkeypatch, capsys, "-c", changed_copy(config, **changes), "-l", logdir)
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert all(word in errors for word in (key, old, new, "checkpoint-00000010.pt"))
    assert before == {path: path.read_bytes() for path in logdir.iterdir()}


def test_harmless_changes_are_accepted_and_logged(trained, tmp_path):
    config, logdir, _ = trained
    changed = changed_copy(config, training__learning_rate=1e-3, training__batch_size=6, training__n_steps=12)
    (tmp_path / "log").mkdir()
    newest = "checkpoint-00000010.pt"
    (tmp_path / "log" / newest).write_bytes((logdir / newest).read_bytes())
    output = train_to_end(changed, tmp_path / "log")
    assert f"changed since {newest}: training.learning_rate was 0.002, is 0.001" in output
    assert f"changed since {newest}: training.batch_size was 4, is 6" in output
    state = RunFolder(tmp_path / "log", 3).newest()[1]
    assert (state["step"], state["position"]) == (12, 10 * 4 + 2 * 6)  # no example repeated, none left out


def test_foreign_folder_is_refused(tmp_path, monkeypatch, capsys):
    config = write_run(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("")
    status, _, errors = command(monkeypatch, capsys, "-c", config, "-l", tmp_path / "thesis")
    assert status == 2 and "holds 'chapter1.tex' but no training run" in errors
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def hold(logdir):
    folder = RunFolder(logdir, 3)
    folder.open()
    (logdir / "held").touch()
    time.sleep(600)


def test_folder_in_use_is_refused(tmp_path, monkeypatch, capsys):
    """Fails if two runs write into the same folder; and the lock must end with the process that held it."""
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 1)
    config, logdir = write_run(tmp_path, training__n_steps=2), tmp_path / "log"
    holder = start_processes(hold, logdir)
    wait_for((logdir / "held").exists)
    (logdir / "held").unlink()
    status, _, errors = command(monkeypatch, capsys, "-c", config, "-l", logdir)
    assert status == 2 and "another process is training there" in errors
    kill(holder)
    assert command(monkeypatch, capsys, "-c", config, "-l", logdir)[0] == 0


@pytest.mark.parametrize("n_workers", [0, 2])
def test_recording_that_vanishes_mid_run(tmp_path, n_workers):
    """Fails if a traceback, PyTorch's data worker's among them, hides the file's name."""
    config, logdir = write_run(tmp_path, training__n_steps=100_000, data__n_workers=n_workers), tmp_path / "log"
    log = tmp_path / "output"
    processes = start_processes(train_command, config, logdir, log=log)
    wait_for(lambda: (logdir / "checkpoint-00000005.pt").exists())
    (tmp_path / "train_3.wav").unlink()
    assert finish(processes) == [2]
    assert log.read_text().splitlines()[-1] == f"error: {tmp_path}/train_3.wav: No such file or directory"
    assert "Traceback" not in log.read_text()


def test_dry_run(tmp_path):
    """The real script: says what a run would be like, and leaves nothing behind."""
    config = write_run(tmp_path, training__micro_batch_size=2)
    result = run_to_end(*TRAINING, "-c", config, "-l", tmp_path / "log", "--dry-run", "--nproc", 1)
    assert (result.returncode, result.stderr) == (0, "")
    for words in [
        "5,829 parameters, fp32, 1 processes on cpu",
        "6 recordings, 0.00 hours",
        "batch of 4 segments of 0.040 s, 2 at once",
        "1.5 steps per epoch",
        "20 steps are 13.3 epochs",
        "measured step: ",
        "measured validation: ",
        "forecast: ",
        "peak memory of a process: ",
    ]:
        assert words in result.stdout
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("kind", ["step", "validation"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_dry_run_with_a_loss_that_is_not_finite(tmp_path, monkeypatch, capsys, kind, value):
    """Fails if a run that will come to nothing is called a good one."""
    losses = Trainer.losses

    def spoilt(trainer, network, batch):
        return losses(trainer, network, batch) * (float(value) if (kind == "step") == network.training else 1)

    monkeypatch.setattr(Trainer, "losses", spoilt)
    status, output, errors = command(monkeypatch, capsys, "-c", write_run(tmp_path), "--dry-run")
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {kind}: the loss is {value} (wanted: ") and errors.count("\n") == 1


def test_missing_filelist_names_what_makes_one(tmp_path, monkeypatch, capsys):
    """As with the default configuration in a fresh clone."""
    (tmp_path / "configs").mkdir()
    config = shutil.copy(ROOT / "configs" / "default.json", tmp_path / "configs")
    status, output, errors = command(monkeypatch, capsys, "-c", config, "--dry-run")
    assert (status, output) == (2, "")
    assert "filelists/ljspeech/train.txt: No such filelist" in errors and "sh runs/make_filelists.sh" in errors


@pytest.mark.parametrize("entry", ["train.py", "training/launch.py"])
def test_driver_too_old_for_the_gpus(tmp_path, monkeypatch, capsys, entry):
    """Fails if eight GPUs that PyTorch cannot use become eight processes on the CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["-c", str(write_run(tmp_path)), "-l", str(tmp_path / "log")]
    if entry == "train.py":
        status, output, errors = command(monkeypatch, capsys, *arguments)
    else:
        monkeypatch.setattr(sys, "argv", [entry, *arguments])
        monkeypatch.setattr(launch, "torchrun", lambda _: pytest.fail("processes are started"))
        status = launch.main()
        output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.startswith("error: 8 GPUs are there, but their driver is too old") and errors.count("\n") == 1
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL], ids=["nohup", "plain"])
def test_torchrun_leaves_an_ignored_hangup_alone(monkeypatch, handler):
    """Fails if several processes under nohup end with the terminal: torchrun would heed the signal."""
    monkeypatch.setattr(sys, "argv", ["training/launch.py", "--nproc", "2", "-c", "x.json"])
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "PET_SIGNALS_TO_HANDLE"):
        monkeypatch.setenv(name, "")  # `launch.main` sets them for good
        monkeypatch.delenv(name)
    handled = []
    monkeypatch.setattr(launch, "torchrun", lambda arguments, _: handled.extend(parse_args(arguments).signals_to_handle.split(",")))
    before = signal.signal(signal.SIGHUP, handler)
    try:
        launch.main()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ("SIGHUP" in handled) == (handler == signal.SIG_DFL) and "SIGTERM" in handled


def test_launcher_says_all_its_options(capsys):
    """Fails if the help is that of train.py, which knows nothing of processes."""
    with pytest.raises(SystemExit) as exit_status:
        launch.parse_arguments(["--help"])
    assert exit_status.value.code == 0
    output = capsys.readouterr().out
    for words in ("--config", "--logdir", "--dry-run", "--nproc N", "-- TORCHRUN_OPTIONS", "CUDA_VISIBLE_DEVICES"):
        assert words in output


def test_previews_of_one_name_are_told_apart():
    previews = [Preview(i, name, *[None] * 5) for i, name in enumerate(["a", "b", "a"])]
    assert preview_names(previews) == ["a 0", "b", "a 2"]


def test_plain_lines_where_there_is_no_terminal(trained):
    output = trained[2]
    assert "\r" not in output and "\x1b" not in output and "%|" not in output
    assert "step 5  loss " in output and "remaining 0:00:0" in output


def test_tensorboard_shows_everything(trained):
    """Fails if a curve, a sound or a picture is missing or not finite."""
    events = EventAccumulator(str(trained[1]), size_guidance={"images": 0, "audio": 0}).Reload()
    tags = events.Tags()
    wanted = {
        *("train/loss", "train/gradient_norm", "train/learning_rate", "train/skipped_updates"),
        *("validation/loss", "validation/log_mel_l1", "validation/stoi"),
        *("speed/samples_per_second", "speed/real_time_factor"),
        *(f"validation_loss_by_noise_level/{name}" for name in BAND_NAMES),
    }
    assert wanted <= set(tags["scalars"])
    assert any(tag.startswith("train_loss_by_noise_level/") for tag in tags["scalars"])
    for tag in tags["scalars"]:
        assert all(abs(event.value) < 1e6 for event in events.Scalars(tag)), tag
    assert set(tags["audio"]) == {f"validation_{i}/{what}" for i in range(2) for what in ("recording", "result")}
    assert set(tags["images"]) == {"noise_schedule", "mel/validation_0", "mel/validation_1"}
    assert tags["tensors"] == ["config/text_summary"]
    assert events.Audio("validation_0/result")[0].sample_rate == SAMPLE_RATE
    assert [event.step for event in events.Scalars("validation/loss")] == [5, 10]


def test_tensorboard_hides_steps_that_come_again(tmp_path):
    """Fails if a resumed run shows two values for a step, or loses those before its checkpoint."""
    config, logdir = write_run(tmp_path, training__log_every=1, training__n_steps=10), tmp_path / "log"
    train_to_end(config, logdir)
    for step in (10, 5):
        (logdir / f"checkpoint-{step:08d}.pt").rename(tmp_path / f"{step}.pt")
    (tmp_path / "5.pt").rename(logdir / "checkpoint-00000005.pt")  # as if killed before the last save
    train_to_end(config, logdir)
    events = EventAccumulator(str(logdir)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 11))


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["-c", "x.json"], (None, [], ["-c", "x.json"])),
        (["--nproc", "2", "-c", "x.json", "--dry-run"], (2, [], ["-c", "x.json", "--dry-run"])),
        (["-c", "a b.json", "--nproc=3"], (3, [], ["-c", "a b.json"])),
        (["-c", "x.json", "--", "--nnodes", "2"], (None, ["--nnodes", "2"], ["-c", "x.json"])),
    ],
)
def test_launcher_hands_arguments_on(arguments, wanted):
    assert launch.parse_arguments(arguments) == wanted


@pytest.mark.parametrize("number", ["0", "-1", "two", ""])
def test_launcher_refuses_impossible_numbers(number, capsys):
    with pytest.raises(SystemExit) as exit_status:
        launch.parse_arguments(["-c", "x.json", f"--nproc={number}"])
    assert exit_status.value.code == 2
    assert "--nproc" in capsys.readouterr().err
    assert launch.TRAIN.exists()


def test_recordings_of_another_form_are_trained_on_only_on_request(tmp_path):
    """Fails if `data.resample` or `data.mix_to_mono` does not reach the recordings."""
    write_run(tmp_path)
    stereo = np.repeat(speech(0.6, 0)[:, None], 2, 1)
    soundfile.write(tmp_path / "train_0.wav", stereo, 2 * SAMPLE_RATE)
    for changes, said in [
        ({}, "train_0.wav: sample rate is 16000 Hz .*data.resample"),
        ({"data__resample": True}, "train_0.wav: 2 channels .*data.mix_to_mono"),
    ]:
        with pytest.raises(InputError, match=said):
            Trainer(load_config(write_run(tmp_path, **changes)), tmp_path)
    trainer = Trainer(load_config(write_run(tmp_path, data__resample=True, data__mix_to_mono=True)), tmp_path)
    assert len(trainer.recordings[0]) == len(stereo) // 2


def test_validation_recordings_that_are_trained_on_are_counted(tmp_path):
    """Fails if a copy in another folder, of another name, is not known again."""
    config = write_run(tmp_path)
    assert Trainer(load_config(config), tmp_path).warnings() == []
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "train_2.wav", tmp_path / "copy" / "other.wav")
    with open(tmp_path / "validation.txt", "a") as file:
        file.write("copy/other.wav\ntrain_3.wav\n")
    [line] = Trainer(load_config(config), tmp_path).warnings()
    assert line.startswith("warning: 2 of 4 validation recordings are training recordings too")
