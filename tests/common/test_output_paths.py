"""No two inputs share an output, and no output replaces what the user had."""

import pytest
import torch

from common.audio import wav_writer
from common.errors import InputError
from common.output_paths import check_output, distinct, identities, output_paths


@pytest.mark.parametrize(
    "inputs, wanted",
    [
        ("x/a.npy y/b.pt", "a b"),
        ("x/..npy x/b.npy", "unnamed b"),
        ("x/..npy y/..npy", "x/unnamed y/unnamed"),
        ("x/a.npy y/a.npy", "x/a y/a"),
        ("x/1/a.npy x/2/a.npy x/b.npy", "1/a 2/a b"),
        ("x/a.npy x/a.pt", "a.npy a.pt"),
        ("x/a.1.npy x/a.2.npy", "a.1 a.2"),
        ("x/a.npy", "a"),
        ("x/a.npy x/a.wav x/a.wav.npy", "a.npy a.wav a.wav.npy"),
        ("x/a.npy x/a.wav x/a.wav.npy x/a.wav.npy.pt", "a.npy a.wav a.wav.npy a.wav.npy.pt"),
    ],
)
def test_no_two_inputs_share_an_output(inputs, wanted):
    assert [str(path) for path in output_paths(inputs.split(), "out")] == [f"out/{name}.wav" for name in wanted.split()]


def test_many_inputs_of_one_name_have_an_output_each():
    """If this takes minutes, the time grows with the square of their number."""
    inputs = [f"x/{i}/a{suffix}" for i in range(10_000) for suffix in (".npy", ".wav")]
    assert len(set(output_paths(inputs, "out"))) == 20_000


@pytest.fixture
def folder(tmp_path):
    for name in ("recordings/a.wav", "recordings/b.wav", "mels/c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "recordings")
    (tmp_path / "link.wav").symlink_to(tmp_path / "recordings" / "a.wav")
    (tmp_path / "hard.wav").hardlink_to(tmp_path / "recordings" / "a.wav")
    return tmp_path


def test_a_file_named_twice_is_one_and_a_link_is_another(folder):
    names = ["recordings/a.wav", "linked/a.wav", "mels/../recordings/a.wav", "link.wav", "none.npy"]
    paths = [folder / name for name in names]
    assert distinct(paths) == [paths[0], paths[3], paths[4]]


@pytest.mark.parametrize(
    "inputs, output",
    [
        *((["recordings/a.wav"], name) for name in ("recordings/a.wav", "linked/a.wav", "mels/../recordings/a.wav", "hard.wav")),
        (["mels/c.npy", "recordings/a.wav"], "linked/a.wav"),
        (["link.wav"], "recordings/a.wav"),  # the original of a linked input
    ],
)
def test_no_input_is_overwritten_however_its_path_is_spelled(folder, inputs, output):
    paths = [folder / name for name in inputs]
    with pytest.raises(InputError, match="would overwrite"):
        check_output(paths[0], folder / output, identities(paths))


def test_only_what_this_program_made_is_replaced(folder):
    """Fails if `-m mels -o wavs` costs the recordings in `wavs`, or if the same command cannot run again."""
    path, output = folder / "mels" / "c.npy", folder / "recordings" / "c.wav"
    with pytest.raises(InputError, match="b.wav is there already, and not made by this program"):
        check_output(path, folder / "linked" / "b.wav", identities([path]))
    for _ in range(2):
        check_output(path, output, identities([path]))
        with wav_writer(output, 8000) as write:
            write(torch.zeros(100))
    with pytest.raises(InputError, match="would overwrite"):
        check_output(output, output, identities([output]))
