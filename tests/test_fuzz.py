"""Hands damaged, foreign and hostile input of every kind to the commands, and checks what each of them owes its user:

- no traceback, and nothing on standard error but `error:`, `warning:` and `note:` lines;
- status 0 with no error line and every result, 1 with an error line for each file that was refused, 2 with one error line;
- no file but whole results, and every input as it was.

    FUZZ_CASES=2000 python -m pytest tests/test_fuzz.py -k schedule

The same numbers make the same cases.
"""

import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import inference
import train
from common.errors import run_command
from model.checkpoint import save_weights
from model.noise_schedule import linear
from tests.conftest import config_of, golden, seeded_network, tiny_config_values
from tests.training_fixtures import one_thread  # noqa: F401

N_CASES = int(os.environ.get("FUZZ_CASES", 300))
SECONDS = 60  # that one case may take
STRANGE_VALUES = [
    None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e-320, 1e308, 10**400, -(10**400), 2**31, 2**47, 2**63, 2**64, "", "a", "\ud800",
    "../../x", "/dev/zero", "NaN", [], [[]], [0.1], {}, {"a": 1}, "x" * 5000, float("nan"), float("inf"), [True], ["0.1", "0.2"],
]  # fmt: skip
STRANGE_ARGUMENTS = [
    "", "-1", "0", "1", "2", "3", "1e9", "nan", "inf", "-inf", "9" * 5000, str(2**31), str(2**63), "0x10", "1.5", "cpu", "cuda", "cuda:0",
    "cuda:-1", "cuda:99999999999", "meta", "mps", "xla", "ddim", "ddim:2", "ddim:", "ancestral:1", "dpm-solver:nan", "unknown", "auto",
    "float32", "bfloat16", "float16", "int8", "yes", "no", "--", "\udcff", "a\nb", "../", "/", "/dev/null", "/dev/zero", ".", "~",
]  # fmt: skip


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for damage to its file."""


def strange_json(rng, value):
    """A JSON value with one thing in it changed, as text."""
    nodes = [value]
    for node in nodes:  # grows meanwhile
        items = node.values() if isinstance(node, dict) else node
        nodes += [item for item in items if isinstance(item, (dict, list)) and item]
    node = rng.choice(nodes)
    key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
    change = rng.choice(["replace", "replace", "replace", "remove", "add", "number"])
    if change == "remove":
        del node[key]
    elif change == "add" and isinstance(node, dict):
        node[rng.choice(["x", "logdir", "betas", "\ud800", "y" * 3000, "a\nb"])] = rng.choice(STRANGE_VALUES)
    elif change == "number" and type(node[key]) in (int, float):
        node[key] *= rng.choice([-1, 2, 10, 1000, 0.5, 10**9])
    else:
        node[key] = copy.deepcopy(rng.choice(STRANGE_VALUES))
    return json.dumps(value)


def strange_bytes(rng, content):
    """A copy of a file's content, damaged."""
    content, size = bytearray(content), max(len(content), 1)
    kind, place = rng.randrange(10), rng.randrange(size)
    if kind < 4:  # flipped bits, most of them in the header
        for _ in range(rng.choice([1, 1, 2, 8, 100]) if content else 0):
            content[rng.randrange(min(size, rng.choice([16, 128, 1024, size])))] ^= 1 << rng.randrange(8)
    elif kind == 4:
        del content[place:]
    elif kind == 5:
        content[place : place + rng.choice([1, 4, 64])] = rng.randbytes(rng.choice([0, 1, 4, 64, 1000]))
    elif kind == 6:
        content[place : place + 200] = bytes([rng.choice([0, 255, 32, 123])]) * 200
    elif kind == 7:
        content = rng.randbytes(rng.choice([0, 1, 10, 1000]))
    elif kind == 8:
        content = content * 2
    else:
        content = rng.choice([b"", b"\xef\xbb\xbf", b"[" * 100_000, b"{}", b"PK\5\6" + bytes(18), b"\x80\2}.", b"fLaC", b"RIFF", b"OggS"])
    return bytes(content)


class Case:
    """One call of a command in a folder of its own.

    Args:
        folder: where the inputs are; results go to `out` in it.
        originals: name -> content of the undamaged inputs.
        rng: a `random.Random`.
        has_damage: whether what is to be damaged is, or stays as it was.
    """

    def __init__(self, folder, originals, rng, has_damage):
        self.folder, self.originals, self.rng, self.has_damage = folder, originals, rng, has_damage
        self.output, self.most_errors = "out", 1  # folder of the results; lines where all of a list is refused

    def pick(self, *values):
        return self.rng.choice(values)

    def write(self, name, content):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)

    def put(self, *names):
        for name in names:
            self.write(name, self.originals[name])

    def damage(self, name, as_name=None):
        """Writes a damaged copy of an original, or another one of them under its name."""
        content, luck = self.originals[name], self.rng.random() if self.has_damage else 1
        if luck < 0.1:
            content = self.originals[self.rng.choice(sorted(self.originals))]
        elif luck < 0.7 and name.endswith(".json"):
            content = strange_json(self.rng, json.loads(content)).encode()
        elif luck < 1:
            content = strange_bytes(self.rng, content)
        self.write(as_name or name, content)

    def inference(self, *more, listed=("good.npy",), **changed):
        """A call with what a case has put there, and the good inputs beside it."""
        wanted = {"tiny.safetensors", "schedule.json", *listed} & self.originals.keys()
        self.put(*(name for name in wanted if not (self.folder / name).exists()))
        options = {"-ch": "tiny.safetensors", "-ns": "schedule.json", "-m": "list.txt", "-v": "no", "-o": "out"} | changed
        if options["-m"] == "list.txt" and not (self.folder / "list.txt").exists():
            self.write("list.txt", "".join(f"{name}\n" for name in listed).encode())
        for option, value in options.items():  # a path is relative to the folder unless it is strange itself
            if option != "-v" and (self.folder / value).parent == self.folder:
                options[option] = str(self.folder / value)
        return inference.main, [*(part for option in options.items() for part in option), *more]


def fuzz_mel(case, *names):
    """A damaged file between good ones."""
    name = case.pick(*(names or ("good.npy", "double.npy", "mel.pt", "legacy.pt")))
    bad = f"bad{Path(name).suffix}"
    case.damage(name, bad)
    return case.inference("--batch_size", case.pick("1", "3"), listed=[bad, "good.npy"])


def fuzz_recording(case):
    return fuzz_mel(case, "speech.wav", "float.wav", "speech.flac", "speech.ogg", "speech.mp3")


def fuzz_samples(case):
    """Recordings whose header is in order and whose samples are not."""
    rng = np.random.default_rng(case.rng.randrange(2**32))
    samples = rng.standard_normal(case.pick(0, 1, 79, 400, 4000)) * case.pick(1e-30, 0.1, 1, 3, 5, 40000, 1e300)
    if len(samples) and case.rng.random() < 0.4:
        samples[rng.integers(len(samples))] = case.pick(np.nan, np.inf, -np.inf)
    rate, subtype = case.pick(8000, 8000, 16000, 1), case.pick("FLOAT", "DOUBLE")
    soundfile.write(case.folder / "bad.wav", np.stack([samples] * case.pick(1, 1, 1, 2), 1), rate, subtype)
    return case.inference(listed=["bad.wav", "good.npy"])


def fuzz_values(case):
    """Mels of the right kind with values and shapes of all kinds."""
    rng = np.random.default_rng(case.rng.randrange(2**32))
    shapes = [(20, 9), (9, 20), (20, 0), (0, 20), (1, 20, 9), (2, 20, 9), (20,), (), (20, 1), (19, 9), (20, 20), (1, 1, 20, 9)]
    dtype = case.pick("f2", "f4", "f8", ">f4", "i1", "i8", "u8", "?", "c8", "U3", "M8[s]", "g", "V4")
    with np.errstate(all="ignore"):
        array = rng.standard_normal(case.pick(*shapes)) * case.pick(0, 1, 4, 1000, 1e30) - case.pick(0, 4)
        array = np.asarray(array, "f8").astype(dtype)
    np.save(case.folder / "bad.npy", array)
    return case.inference(listed=["bad.npy", "good.npy"])


def fuzz_schedule(case):
    name = case.pick("schedule.json", "schedule.json", "schedule.npy", "schedule.pt")
    case.damage(name)
    return case.inference("--sampler", case.pick("ancestral", "ddim", "sde-dpm-solver"), **{"-ns": name})


def fuzz_checkpoint(case):
    name = case.pick("tiny.safetensors", "state.pt", "ivanvovk.pt", "lmnt.pt")
    mel = {"ivanvovk.pt": "ivanvovk.npy", "lmnt.pt": "lmnt.npy"}.get(name, "good.npy")
    case.damage(name)
    return case.inference(listed=[mel], **{"-ch": name})


def strange_state(case, original, sections):
    """The content of a training state in which an entry, of it or of one of its sections, is another or missing."""
    state, tensor = torch.load(io.BytesIO(case.originals[original]), weights_only=True), torch.zeros(3)
    target = case.pick(state, *(state[section] for section in sections))
    key = case.rng.choice(sorted(target))
    strange = (tensor, tensor.long(), tensor.to_sparse(), tensor.to("meta"), tensor.cfloat(), tensor.half(), tensor[:0])
    target[key] = case.pick(*STRANGE_VALUES, *strange)
    if case.rng.random() < 0.2:
        del target[key]
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def fuzz_state(case):
    case.write("state.pt", strange_state(case, "state.pt", ["ema"]))
    return case.inference(**{"-ch": "state.pt"})


def fuzz_config(case):
    case.damage("config.json")
    return case.inference(**{"-c": "config.json"})


def fuzz_list(case):
    case.put("good.npy", "mel.pt", "speech.wav")
    lines = [
        "good.npy", "mel.pt", "speech.wav", "good.npy|text | more", "none.npy", "", " ", "|", ".", "..", "/dev/zero", "out", "list.txt",
        "a\0b", "good.npy\x85", "./good.npy", "x" * 5000, "\xed\xa0\x80", "good", "/", "\ufeffgood.npy", "..npy",
    ]  # fmt: skip
    case.most_errors = len(lines)
    content = case.pick("\n", "\n", "\r\n", "\r").join(case.rng.choices(lines, k=case.rng.randrange(6))).encode()
    case.write("list.txt", content if case.rng.random() < 0.8 else strange_bytes(case.rng, content + b"good.npy"))
    return case.inference("--batch_size", case.pick("1", "2"))


def fuzz_options(case):
    option = case.rng.choice(
        "-ch -ns -m -o -v -c --device --seed --batch_size --sampler --gla_grad --dtype --chunk_frames --steps --repeat".split()
    )
    value = case.pick(*STRANGE_ARGUMENTS)
    if option == "-o":
        case.output = value = "/dev/null" if value in ("", "/", ".", "..", "../") else value  # not outside of the folder
    return case.inference(option, value)


def fuzz_train(case):
    """A configuration that is tried without training."""
    case.put("train.txt", "validation.txt", "speech.wav")
    case.damage("config.json")
    return train.main, ["-c", str(case.folder / "config.json"), "-l", str(case.folder / "out"), "--dry-run"]


def fuzz_resume(case):
    """A log folder whose checkpoint is damaged; training has one step to go on with."""
    case.put("train.txt", "validation.txt", "speech.wav", "config.json")
    name = case.pick("checkpoint-00000002.pt", "checkpoint-00000002.pt", "best.pt", "checkpoint-2.pt", "checkpoint-00000099.pt")
    if case.rng.random() < 0.5:
        case.write(f"out/{name}", strange_state(case, "checkpoint.pt", ["optimizer", "stability", "rng"]))
    else:
        case.damage("checkpoint.pt", f"out/{name}")
    return train.main, ["-c", str(case.folder / "config.json"), "-l", str(case.folder / "out")]


SHARES = {  # how often each of them comes
    "mel": 4, "recording": 4, "samples": 2, "values": 3, "schedule": 3, "checkpoint": 4, "state": 3, "config": 4, "list": 3,
    "options": 4, "train": 1, "resume": 2,
}  # fmt: skip
CASES = [(kind, number) for kind, share in SHARES.items() for number in range(N_CASES * share // sum(SHARES.values()))]
OF_DAMAGE = ("mel", "recording", "schedule", "checkpoint", "config", "train")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Name -> content of one good input of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    values = tiny_config_values(training__n_steps=3, training__save_every=1, training__batch_size=2)
    config = config_of(values)
    network = seeded_network(config)
    save_weights(network, config, folder / "tiny.safetensors")
    schedule, weights = linear(3, 1e-3, 0.6), network.state_dict()
    schedule.save(folder / "schedule.json")
    mel = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) * 4 - 6
    arrays = {"schedule": schedule.betas, "good": mel.numpy(), "double": mel.double().numpy()}
    state = {"network": weights, "ema": weights, "step": 5, "config": config.model_dump_json()}
    tensors = {"state": state, "schedule": torch.from_numpy(schedule.betas.copy()), "mel": mel}
    for name in ("ivanvovk", "lmnt"):
        of_name = golden(f"{name}_tiny.pt")
        tensors[name], arrays[name] = {"model": of_name["state_dict"]}, of_name["mels"][0, :, :3].numpy()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for name, content in tensors.items():
        torch.save(content, folder / f"{name}.pt")
    torch.save(mel, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    audio = 0.3 * np.sin(np.arange(3200) / 5) + 0.01 * np.random.default_rng(0).standard_normal(3200)
    for name in ("speech.wav", "float.wav", "speech.flac", "speech.ogg", "speech.mp3"):
        soundfile.write(folder / name, audio, 8000, "FLOAT" if name == "float.wav" else None)
    (folder / "config.json").write_text(json.dumps(values))
    for name in ("train.txt", "validation.txt"):
        (folder / name).write_text("speech.wav\n")
    status, errors = call(train.main, ["-c", str(folder / "config.json"), "-l", str(folder / "logs")])
    assert status == 0, errors
    shutil.move(folder / "logs" / "checkpoint-00000002.pt", folder / "checkpoint.pt")
    shutil.rmtree(folder / "logs")
    return content_of(folder)


def call(main, arguments):
    """Runs a command's `main` in this process; returns status and standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
            patch.setattr(sys, "argv", ["command", *arguments])
            run_command(main)
    return exit_.value.code, errors.getvalue()


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def judge(status, errors, before, after, output="out", most_errors=1):
    """Fails if something is wrong with the end of a command.

    Args:
        before, after: name -> content of the files before and after it.
        output: folder of the results.
        most_errors: lines that status 2 may have, where each file of a list was refused.
    """
    output, lines = f"{output}/", errors.splitlines()
    n_errors = sum(line.startswith("error: ") for line in lines)
    new = {name for name in after if name not in before}
    assert all(line.startswith(("error: ", "warning: ", "note: ", "changed since", "going on")) for line in lines), "another line"
    assert n_errors in {0: [0], 1: range(1, 100), 2: range(1, most_errors + 1)}[status], f"status {status}, {n_errors} error lines"
    assert all(name.startswith(output) or after.get(name) == content for name, content in before.items()), "an input was changed"
    assert all(name.startswith(output) and not name.endswith(".tmp") for name in new), "a file is left"
    sounds = [name for name in after if name.startswith(output) and name.endswith(".wav")]
    assert all(len(soundfile.read(io.BytesIO(after[name]))[0]) for name in sounds), "an empty result"
    assert status != 2 or not new.intersection(sounds), "a result in spite of status 2"


def too_slow(*_):
    raise TooSlow


@pytest.mark.parametrize("kind, number", CASES)
def test_damaged_and_hostile_input_is_said_in_one_line_and_leaves_nothing(kind, number, originals, tmp_path, monkeypatch):
    case = Case(tmp_path, originals, random.Random(f"{kind}:{number}"), number > 0)
    main, arguments = globals()[f"fuzz_{kind}"](case)
    before = content_of(tmp_path)
    monkeypatch.chdir(tmp_path)  # a strange path may be a relative one
    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    try:
        status, errors = call(main, arguments)
    finally:
        signal.alarm(0)
    print(arguments, errors[-3000:])
    judge(status, errors, before, content_of(tmp_path), case.output, case.most_errors)
    assert status == 0 or number or kind not in OF_DAMAGE, "where every case is refused nothing is tried"


@pytest.mark.parametrize(
    "status, errors, after",
    [
        (0, "", {}),
        (2, "", {"a.npy": b"a"}),
        (2, "error: a\nerror: b", {"a.npy": b"a"}),
        (0, "error: a", {"a.npy": b"a"}),
        (2, "error: a\nRuntimeWarning: b", {"a.npy": b"a"}),
        (2, "error: a", {"a.npy": b"b"}),
        (1, "error: a", {"a.npy": b"a", "out/.1.tmp": b""}),
        (2, "error: a", {"a.npy": b"a", "b": b""}),
    ],
)
def test_a_failure_would_be_seen(status, errors, after):
    """Fails if the judge lets anything pass that it is there to find."""
    with pytest.raises(AssertionError):
        judge(status, errors, {"a.npy": b"a"}, after)
    judge(2, "error: a", {"a.npy": b"a"}, {"a.npy": b"a"})
