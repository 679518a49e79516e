"""Texts that mean a noise schedule."""

import numpy as np
import pytest
import torch

from common.errors import InputError, describe
from model.noise_schedule import fibonacci, find_schedule, geometric, interpolate, linear, repeat
from tests.model.test_noise_schedule import SIX


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("six.json", SIX),
        ("six.npy", SIX),
        ("six.json:25", interpolate(SIX, 25)),
        ("six.json:x3", repeat(SIX, 3)),
        ("six:25.json", linear(3, 0.1, 0.2)),  # files whose names hold colons
        ("six:25.json:12", interpolate(linear(3, 0.1, 0.2), 12)),
        ("six.json:25.json:x2", repeat(linear(3, 0.1, 0.2), 2)),
        ("linear:4:1e-6:0.01.json", linear(3, 0.1, 0.2)),
        ("linear:50:1e-6:0.01", linear(50, 1e-6, 0.01)),
        ("linear:50:1e-6:0.01:12", interpolate(linear(50, 1e-6, 0.01), 12)),
        ("geometric:4:1e-4:.5", geometric(4, 1e-4, 0.5)),
        ("fibonacci:25:1e-6", fibonacci(25, 1e-6)),
        ("fibonacci:25:1e-6:x2", repeat(fibonacci(25, 1e-6), 2)),
    ],
)
def test_texts_of_each_form(tmp_path, monkeypatch, text, wanted):
    monkeypatch.chdir(tmp_path)
    SIX.save("six.json")
    np.save("six.npy", SIX.betas)
    torch.save(torch.from_numpy(SIX.betas.copy()), "six.PT")
    for name in ("six:25.json", "six.json:25.json", "linear:4:1e-6:0.01.json"):
        linear(3, 0.1, 0.2).save(name)
    assert np.array_equal(find_schedule(text).betas, wanted.betas)


def test_changes_as_numbers_come_after_the_text(tmp_path):
    SIX.save(tmp_path / "six.json")
    assert find_schedule(tmp_path / "six.json", 25).name == "six-in-25"
    assert find_schedule(f"{tmp_path}/six.json:12", times=2).name == "six-in-12-x2"


def test_builders_with_other_arguments_have_other_names():
    """Fails if `quality` refuses two of them as the same."""
    texts = ["linear:50:1e-6:0.01", "linear:50:1e-4:0.05", "linear:25:1e-6:0.01", "geometric:50:1e-6:0.01", "fibonacci:25:1e-6"]
    assert len({find_schedule(text).name for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "text, words",
    [
        ("none.json", "none.json: No such file"),
        ("six.txt", "six.txt: no noise schedule (expected: a .json"),
        ("six.json:-3", "six.json:-3: no noise schedule"),
        ("six.json:25:x2", "six.json:25:x2: no noise schedule"),
        ("six.json:0", "six.json:0: number of steps is 0"),
        ("six.json:1", "six.json:1: a schedule of 6 steps has no curve"),
        ("six.json:x999999", "six.json:x999999: number of repetitions is 999999"),
        ("", "no noise schedule"),
        ("cosine:25", "cosine:25: no noise schedule"),
        ("linear:50:1e-6", "linear:50:1e-6: no noise schedule"),
        ("linear:50:1e-6:1", "betas inside (0, 1)"),
        ("linear:50:nan:0.1", "betas inside (0, 1)"),
        ("quadratic:50:-1:0.1", "betas inside (0, 1)"),
        ("linear:many:1e-6:0.01", "1 to 1000000 steps"),
        (f"linear:{10**30}:1e-6:0.01", "1 to 1000000 steps"),
        ("fibonacci:30:1e-6", "found 1.346269 at index 29"),
        ("\ud800\0.json:3", "not a file name"),
    ],
)
def test_bad_texts_are_one_line(tmp_path, monkeypatch, text, words):
    """Fails if one of them is an error of NumPy's, a warning, or takes minutes."""
    monkeypatch.chdir(tmp_path)
    SIX.save("six.json")
    with pytest.raises((InputError, OSError)) as error:
        find_schedule(text)
    assert words in describe(error.value) and len(str(error.value)) < 300
