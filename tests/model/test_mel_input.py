"""Mels from files and from callers: converted if they are the network's, else refused by name."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from model.mel import as_mel, read_mel

MEL = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_any_precision(tmp_path, dtype):
    torch.save(MEL.to(dtype)[None], tmp_path / "m.pt")
    mel = as_mel(MEL.to(dtype).clone().requires_grad_(), 20)
    assert torch.equal(mel, MEL.to(dtype).float()) and torch.equal(read_mel(tmp_path / "m.pt", 20), mel) and not mel.requires_grad


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "f8", "i4", "g"])
def test_arrays_of_any_precision_and_byte_order(tmp_path, dtype):
    array = (8 * MEL).numpy().astype(dtype)
    with open(tmp_path / "m.NPY", "wb") as file:
        np.save(file, array)
    for mel in (read_mel(tmp_path / "m.NPY", 20), as_mel(array, 20), as_mel(array[None], 20)):
        assert mel.dtype == torch.float32 and np.array_equal(mel.numpy(), array.astype(np.float32))


def test_what_a_caller_may_have_in_its_place():
    for mel, words in [
        (MEL.T, r"\[7, 20\].*\[20, frames\].*frames along the first axis"),
        (MEL[:19], r"\[19, 7\]"),
        (torch.stack([MEL, MEL]), r"\[2, 20, 7\]"),
        (MEL[:, :0], "no frames"),
        (MEL.tolist(), "mel is a list"),
        (None, "mel is a NoneType"),
        (np.array([["a"]]), "mel is a ndarray, <U1"),
        (MEL * torch.nan, "NaN or infinity"),
        (MEL > 0, "torch.bool"),
        (MEL.to_sparse(), "sparse"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            as_mel(mel, 20)
        assert "\n" not in str(error.value)
    assert as_mel(MEL[:, :0], 20, fewest_frames=0).shape == (20, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, write, words",
    [
        ("bands.npy", lambda path: np.save(path, np.zeros((21, 7))), r"\[21, 7\].*\[20, frames\]"),
        ("empty.npy", lambda path: np.save(path, np.zeros((20, 0))), "no frames"),
        ("nan.npy", lambda path: np.save(path, np.full((20, 7), np.nan)), "NaN or infinity"),
        ("words.npy", lambda path: np.save(path, np.array(["a", "b"])), "real numbers"),
        ("objects.npy", lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True), "plain tensor"),
        ("pickle.pt", lambda path: torch.save(path, path), "plain tensor"),
        ("dictionary.pt", lambda path: torch.save({"mel": MEL}, path), "dict"),
        ("quantised.pt", lambda path: torch.save(torch.quantize_per_tensor(MEL, 0.1, 0, torch.qint8), path), "plain"),
        ("meta.pt", lambda path: torch.save(MEL.to("meta"), path), "meta"),
        ("truncated.pt", lambda path: path.write_bytes(b"PK\x03\x04abc"), "damaged"),
        ("huge.npy", lambda path: path.write_bytes(npy_header("(9999999999, 9999999)")), "memory|damaged"),
    ],
)
def test_unusable_mels_are_refused_by_name(tmp_path, name, write, words):
    """Whatever a reader raises over them: NumPy, zipfile and pickle have some twenty kinds."""
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: .*({words})") as error:
        read_mel(tmp_path / name, 20)
    assert "\n" not in str(error.value)


def npy_header(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
