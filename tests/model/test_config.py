"""A configuration that cannot be meant is refused with the key and what was found."""

import pytest

from common.errors import InputError
from model.config import load_config, parse_config
from tests.conftest import ROOT, changed_config, config_of, tiny_config_values


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.name)
def test_shipped_configurations_load(path):
    config = load_config(path)
    assert config.network.hop_length == config.mel.hop_length


def changed(path, value):
    """The tiny configuration with another value of a key, or without it where that is None."""
    values = tiny_config_values(**{path.replace(".", "__"): value})
    section, _, key = path.partition(".")
    if value is None:
        del (values[section] if key else values)[key or section]
    return values


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("mel.sample_rat", 8000, ["unknown key 'mel.sample_rat'"]),
        ("mel.sample_rate", None, ["missing key 'mel.sample_rate'"]),
        ("training", None, ["missing key 'training'"]),
        ("mel.sample_rate", -8000, ["mel.sample_rate", "-8000"]),
        ("mel.sample_rate", "8000", ["mel.sample_rate", "'8000'"]),
        ("mel.f_max", 5000.0, ["f_max 5000", "sample_rate 8000"]),
        ("mel.win_length", 200, ["win_length is 200", "160"]),
        ("mel.clip", [1.0, 0.0], ["clip is [1, 0]", "the smaller value first"]),
        ("mel.log", "log2", ["mel.log", "'log2'"]),
        ("network.factors", [5, 4, 3], ["60", "40"]),
        ("network.upsampling_channels", [8, 8], ["upsampling_channels has 2", "expected: 3"]),
        ("network.downsampling_channels", [8, 7], ["downsampling_channels.1", "multiple of 2", "7"]),
        ("network.downsampling_factors", [3, 2], ["downsampling_factors [3, 2]"]),
        ("training.precision", "fp8", ["training.precision", "'fp8'"]),
        ("training.batch_size", 0, ["training.batch_size", "0"]),
    ],
)
def test_names_the_key_and_what_was_found(path, value, words):
    with pytest.raises(InputError) as error:
        config_of(changed(path, value))
    message = str(error.value)
    assert "\n" not in message
    for word in ["test.json", *words]:
        assert word in message


NO_CONFIGURATIONS = [b"", b"{", b"[]", b'{"mel": {"sample_rate": NaN}}', b'{"mel": "a\\nb"}', b"[" * 200_000, b"\xff\xfe\x00binary"]


@pytest.mark.parametrize("content", NO_CONFIGURATIONS, ids=range(len(NO_CONFIGURATIONS)))
def test_what_is_no_configuration_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "test.json").write_bytes(content)
    with pytest.raises(InputError, match="test.json") as error:
        load_config(tmp_path / "test.json")
    assert "\n" not in str(error.value)


COUNTS = ["mel.n_fft", "mel.n_mels", "network.factors", "data.n_workers", "training.n_steps", "noise_schedule.n_steps"]


@pytest.mark.parametrize("path, number", [*((path, 2**31) for path in COUNTS), ("mel.n_fft", 10**400), ("training.seed", 2**63)])
def test_numbers_that_nothing_can_have_are_refused(path, number):
    """Fails if an overflow, or a matrix that fits into no memory, comes of one later."""
    values = changed(path, [number] if path == "network.factors" else number)
    with pytest.raises(InputError, match=path.replace(".", r"\.")) as error:
        config_of(values)
    assert len(str(error.value)) < 300
    assert config_of(changed("training.seed", 2**31)).training.seed == 2**31


def test_what_users_of_other_wavegrads_look_for_is_named():
    with pytest.raises(InputError, match="unknown key 'training.logdir' .*-l FOLDER"):
        config_of(changed("training.logdir", "logs"))


def test_the_old_name_of_a_key_is_read():
    """Fails if a configuration, or a checkpoint's, from before the renaming is refused."""
    config = changed_config(training__infer_grad={"noise_schedule": "a.json", "loudness_weight": 0.3})
    assert config.training.infer_grad.pmsqe_weight == 0.3
    assert parse_config(config.model_dump_json(), "again") == config
