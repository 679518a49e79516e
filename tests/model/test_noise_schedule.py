"""Noise schedules are immutable, exact, refuse what is not one, and follow from texts."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError, describe
from model.noise_schedule import (
    BUILDERS,
    MANY_STEPS,
    NoiseSchedule,
    fibonacci,
    find_schedule,
    geometric,
    interpolate,
    linear,
    random_along,
    repeat,
)
from tests.conftest import ROOT

betas_inside = st.lists(st.floats(1e-9, 0.999, exclude_max=True), min_size=1, max_size=30)


@given(betas_inside)
def test_tables_follow_from_the_betas(betas):
    schedule = NoiseSchedule(betas)
    product = 1.0
    for n, beta in enumerate(betas):
        product *= 1 - beta
        assert schedule.alphas[n] == 1 - beta
        assert schedule.alphas_cumprod[n] == pytest.approx(product, rel=1e-12)
        assert schedule.noise_levels[n] == pytest.approx(product**0.5, rel=1e-12)
    assert (np.diff(schedule.noise_levels) < 0).all()
    # In float32, 1 - alpha_bar of a first beta of 1e-6 would be wrong by 1 %, and every output too quiet by as much.
    assert 1 - schedule.alphas_cumprod[0] == pytest.approx(betas[0], rel=1e-6)


def test_is_immutable():
    betas = np.array([0.1, 0.2])
    schedule = NoiseSchedule(betas)
    betas[0] = 0.9
    assert schedule.betas[0] == 0.1
    for table in ("betas", "alphas", "alphas_cumprod", "noise_levels"):
        with pytest.raises(ValueError):
            getattr(schedule, table)[0] = 0.5
        with pytest.raises(AttributeError):
            setattr(schedule, table, np.zeros(2))


@pytest.mark.parametrize(
    "betas, words",
    [
        ([], "empty"),
        ([0.0, 0.1], "found 0.0 at index 0"),
        ([0.1, 1.0], "found 1.0 at index 1"),
        ([0.1, -0.1], "found -0.1 at index 1"),
        ([float("nan")], "found nan"),
        ([[0.1], [0.2]], r"shape \[2, 1\]"),
        ([[0.1], [0.2, 0.3]], "list of numbers"),
        (None, "list of numbers"),
        ([True, 0.5], "list of numbers"),
        (["0.1", "0.2"], "list of numbers"),
        ([10**400], "list of numbers"),
        ({"a": 1}, "list of numbers"),
        (torch.zeros(2, dtype=torch.bits8), "list of numbers"),
    ],
)
def test_refuses_betas_that_are_none(betas, words):
    with pytest.raises(InputError, match=words):
        NoiseSchedule(betas)


NAMES = ["ivanvovk-6", "ivanvovk-12", "ivanvovk-25", "wg-6"]
ENDS = [(NoiseSchedule.load(ROOT / "schedules" / f"{name}.json"), end) for name, end in zip(NAMES, (0.964, 0.954, 0.848, 0.435))]
ENDS += [(linear(1000, 1e-6, 0.01), 0.081), (fibonacci(25, 1e-6), 0.848)]


@pytest.mark.parametrize("schedule, expected", ENDS, ids=lambda value: getattr(value, "name", value))
def test_schedules_end_where_their_source_says(schedule, expected):
    assert schedule.noise_levels[-1] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["linear", "geometric", "quadratic"])
def test_builders_rise_from_start_to_stop(name):
    betas = BUILDERS[name](10, 1e-6, 0.01).betas
    assert betas[0] == pytest.approx(1e-6) and betas[-1] == pytest.approx(0.01) and (np.diff(betas) > 0).all()


@pytest.mark.parametrize("path", sorted((ROOT / "schedules").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_schedules_say_where_they_come_from(path):
    schedule = NoiseSchedule.load(path)
    assert schedule.name == path.stem and schedule.source
    assert schedule.warning is None or not path.stem.startswith("small-16k-")  # our own do not warn against themselves


BETAS = {
    3: ("dpm-solver", [0.000281669, 0.0991602, 0.816611]),
    12: (
        "sde-dpm-solver",
        [0.000281669, 0.0010611, 0.00368672, 0.0093211, 0.0199528, 0.0393041, 0.0685162, 0.140191, 0.283248, 0.347101, 0.33356, 0.28753],
    ),
}


@pytest.mark.parametrize("n_steps, expected", BETAS.items())
def test_the_shipped_schedule_in_other_numbers_of_steps(n_steps, expected):
    """Fails if a change of the interpolation would make the figures in checkpoints/README.md those of other schedules."""
    schedule = find_schedule(ROOT / "schedules" / "small-16k-6.json", n_steps)
    assert (schedule.sampler, [float(f"{beta:.6g}") for beta in schedule.betas]) == expected


def test_warns_of_betas_that_are_no_way_from_noise_to_speech():
    """Fails if reversed or equal betas pass, or if a released schedule in some number of steps does not."""
    wg = NoiseSchedule.load(ROOT / "schedules" / "wg-6.json")
    assert wg.warning is None
    assert "final noise level 0.964" in NoiseSchedule.load(ROOT / "schedules" / "ivanvovk-6.json").warning
    assert "fall from the first to the last" in NoiseSchedule(wg.betas[::-1]).warning
    assert "fall" in NoiseSchedule([0.6, 0.05]).warning and "fall" in NoiseSchedule([0.6, 0.05, 0.01], griffin_lim=3).warning
    assert "6 equal betas" in NoiseSchedule([0.3] * 6).warning
    assert linear(1000, 0.01, 0.01).warning is None and NoiseSchedule([0.8]).warning is None
    schedules = [NoiseSchedule.load(path) for path in sorted((ROOT / "schedules").glob("*.json"))]
    derived = [interpolate(schedule, n_steps) for schedule in schedules if len(schedule) > 1 for n_steps in (2, 3, 6, 12, 25, 50)]
    assert [schedule.name for schedule in [*schedules, *derived] if schedule.warning and "final" not in schedule.warning] == []


@given(betas=betas_inside)
def test_json_gives_back_the_same_bits(tmp_path_factory, betas):
    path = tmp_path_factory.mktemp("schedule") / "s.json"
    schedule = NoiseSchedule(betas, "s", "made up", "ddim", "ancestral", 4, 0)
    schedule.save(path)
    assert NoiseSchedule.load(path).content == schedule.content and schedule.content["betas"] == betas
    assert [entry.name for entry in path.parent.iterdir()] == ["s.json"]


def test_reads_what_users_have(tmp_path):
    betas = [1e-4, 1e-2, 0.5]
    torch.save(torch.tensor(betas, dtype=torch.float64), tmp_path / "tensor.pt")
    torch.save(betas, tmp_path / "list.pt")
    np.save(tmp_path / "array.npy", np.array(betas))
    (tmp_path / "bare.json").write_text(json.dumps(betas))
    (tmp_path / "byte_order_mark.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(betas).encode())
    for path in tmp_path.iterdir():
        assert list(NoiseSchedule.load(path).betas) == betas


@pytest.mark.parametrize(
    "name, write",
    [
        ("broken.json", lambda path: path.write_text("{")),
        ("unknown_key.json", lambda path: path.write_text('{"betas": [0.1], "bteas": [0.1]}')),
        ("number_as_sampler.json", lambda path: path.write_text('{"betas": [0.1], "sampler": 5}')),
        ("deep.json", lambda path: path.write_text("[" * 100_000)),
        ("huge_number.json", lambda path: path.write_text('{"betas": [1' + "0" * 400 + "]}")),
        ("pickle.pt", lambda path: torch.save(path, path)),
        ("dictionary.pt", lambda path: torch.save({"betas": 1}, path)),
        ("truncated.pt", lambda path: path.write_bytes(b"PK\x03\x04")),
        ("objects.npy", lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True)),
        ("schedule.txt", lambda path: path.write_text("0.1")),
    ],
)
def test_refuses_files_that_are_no_schedule_by_name(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    with pytest.raises(InputError) as error:
        NoiseSchedule.load(path)
    assert name in str(error.value) and "\n" not in str(error.value)


@given(st.integers(2, 12), st.integers(0, 1000))
def test_random_schedules_keep_to_the_curve(n_steps, seed):
    """Each step is near its place in `interpolate`'s schedule; the ends are the curve's."""
    curve = linear(6, 1e-3, 0.5)
    drawn = random_along(curve, n_steps, np.random.default_rng(seed))
    assert len(drawn) == n_steps
    np.testing.assert_allclose(drawn.log_snr[[0, -1]], curve.log_snr[[0, -1]])
    quarters = interpolate(curve, 4 * (n_steps - 1) + 1).log_snr  # a quarter of a step from place to place
    for n in range(1, n_steps - 1):
        assert quarters[4 * n + 1] - 1e-9 <= drawn.log_snr[n] <= quarters[4 * n - 1] + 1e-9


@pytest.mark.parametrize("n_steps, other", [(1, 4), (4, 1)])
@pytest.mark.parametrize("take", [interpolate, lambda schedule, n_steps: random_along(schedule, n_steps, np.random.default_rng(0))])
def test_one_step_is_no_curve(take, n_steps, other):
    with pytest.raises(InputError, match="vanishes beside 1"):
        take(NoiseSchedule([1e-17, 0.5]), 3)
    with pytest.raises(InputError, match="no curve"):
        take(linear(n_steps, 0.1, 0.2), other)


SIX = NoiseSchedule([3e-4, 6e-3, 0.04, 0.16, 0.5, 0.6], "six", "searched", "dpm-solver", "sde-dpm-solver")


def test_the_same_curve_in_another_number_of_steps():
    """Fails if the ends move, or if every other step of twice as many is not a step of the curve."""
    finer = interpolate(SIX, 11)
    np.testing.assert_allclose(finer.log_snr[::2], SIX.log_snr, rtol=1e-12)
    assert (finer.name, finer.source) == ("six-in-11", "interpolated in log-SNR from six (searched)")
    assert interpolate(SIX, 6) is SIX


def test_each_beta_is_repeated():
    repeated = repeat(fibonacci(25, 1e-6), 2)
    assert np.array_equal(repeated.betas, np.repeat(fibonacci(25, 1e-6).betas, 2))
    assert repeated.name == "fibonacci-25-1e-06-x2" and repeated.source.endswith("(fibonacci(25, 1e-06))")
    assert repeat(SIX, 1) is SIX


@pytest.mark.parametrize(
    "derived, sampler",
    [
        (interpolate(SIX, 3), "dpm-solver"),
        (interpolate(SIX, MANY_STEPS - 1), "dpm-solver"),
        (interpolate(SIX, MANY_STEPS), "sde-dpm-solver"),
        (repeat(SIX, 2), "sde-dpm-solver"),
        (repeat(interpolate(SIX, 5), 2), "dpm-solver"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_number_of_steps_decides_on_the_sampler(derived, sampler):
    """Fails if a derived schedule is sampled as no file of such steps was, or forgets one of the two samplers."""
    assert (derived.sampler, derived.many_steps_sampler) == (sampler, "sde-dpm-solver")
    assert interpolate(NoiseSchedule(SIX.betas, sampler="ddim"), 12).sampler == "ddim"  # without one for many steps


@pytest.mark.parametrize("change", [interpolate, repeat])
@pytest.mark.parametrize("number", [0, 2.5, None, 10**9])
def test_impossible_changes_are_one_clear_error(change, number):
    with pytest.raises(InputError, match="number of .* is .* .expected: a whole number, 1 to "):
        change(SIX, number)


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
    assert np.array_equal(find_schedule("six.json:12", 5, times=2).betas, repeat(interpolate(interpolate(SIX, 12), 5), 2).betas)


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
