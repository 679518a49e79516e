"""No two inputs share an output, and no output replaces what the user had."""

import pytest
import torch

from common.audio import wav_writer
from common.errors import InputError
from common.output_paths import check_output, distinct, identities, output_paths


@pytest.mark.parametrize(
    "inputs, wanted",
    [
        (["x/a.npy", "y/b.pt"], ["a.wav", "b.wav"]),
        (["x/..npy", "x/b.npy"], ["unnamed.wav", "b.wav"]),
        (["x/..npy", "y/..npy"], ["x/unnamed.wav", "y/unnamed.wav"]),
        (["x/a.npy", "y/a.npy"], ["x/a.wav", "y/a.wav"]),
        (["x/1/a.npy", "x/2/a.npy", "x/b.npy"], ["1/a.wav", "2/a.wav", "b.wav"]),
        (["x/a.npy", "x/a.pt"], ["a.npy.wav", "a.pt.wav"]),
        (["x/a.1.npy", "x/a.2.npy"], ["a.1.wav", "a.2.wav"]),
        (["x/a.npy"], ["a.wav"]),
        (["x/a.npy", "x/a.wav", "x/a.wav.npy"], ["a.npy.wav", "a.wav.wav", "a.wav.npy.wav"]),
        (["x/a.npy", "x/a.wav", "x/a.wav.npy", "x/a.wav.npy.pt"], ["a.npy.wav", "a.wav.wav", "a.wav.npy.wav", "a.wav.npy.pt.wav"]),
    ],
)
def test_no_two_inputs_share_an_output(inputs, wanted):
    found = [str(path) for path in output_paths(inputs, "out")]
    assert len(set(found)) == len(inputs)
    assert found == [f"out/{name}" for name in wanted]


def test_a_file_named_twice_is_one_and_a_link_is_another(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "link.npy").symlink_to("a.npy")
    (tmp_path / "folder").symlink_to(tmp_path)
    paths = [tmp_path / name for name in ("a.npy", "folder/a.npy", "../" + tmp_path.name + "/a.npy", "link.npy", "none.npy")]
    assert distinct(paths) == [paths[0], paths[3], paths[4]]


@pytest.fixture
def folder(tmp_path):
    for name in ("recordings/a.wav", "recordings/b.wav", "mels/c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "recordings")
    return tmp_path


def refusal(folder, inputs, output):
    paths = [folder / name for name in inputs]
    with pytest.raises(InputError) as error:
        check_output(paths[0], folder / output, identities(paths))
    return str(error.value)


def test_no_input_is_overwritten_however_its_path_is_spelled(folder):
    for output in ("recordings/a.wav", "linked/a.wav", "mels/../recordings/a.wav"):
        assert "would overwrite" in refusal(folder, ["recordings/a.wav"], output)
    assert "would overwrite" in refusal(folder, ["mels/c.npy", "recordings/a.wav"], "linked/a.wav")
    (folder / "hard.wav").hardlink_to(folder / "recordings" / "a.wav")
    assert "would overwrite" in refusal(folder, ["recordings/a.wav"], "hard.wav")
    (folder / "links").mkdir()
    (folder / "links" / "a.wav").symlink_to(folder / "recordings" / "a.wav")
    assert "would overwrite" in refusal(folder, ["links/a.wav"], "recordings/a.wav")  # the original of a linked input


def test_only_what_this_program_made_is_replaced(folder):
    """Fails if `-m mels -o wavs` costs the recordings in `wavs`, or if the same command cannot run again."""
    assert "b.wav is there already, and not made by this program" in refusal(folder, ["mels/c.npy"], "linked/b.wav")
    path, output = folder / "mels" / "c.npy", folder / "recordings" / "c.wav"
    check_output(path, output, identities([path]))
    with wav_writer(output, 8000) as write:
        write(torch.zeros(100))
    check_output(path, output, identities([path]))
    assert "would overwrite" in refusal(folder, ["recordings/c.wav"], "recordings/c.wav")


def test_many_inputs_of_one_name_have_an_output_each():
    """Fails if two share one. If this takes minutes, the time grows with the square of their number."""
    inputs = [f"x/{i}/a{suffix}" for i in range(10_000) for suffix in (".npy", ".wav")]
    assert len(set(output_paths(inputs, "out"))) == 20_000
