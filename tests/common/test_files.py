"""A file is read or refused by its name, and written whole or not at all."""

import contextlib
import errno
import os
import stat

import pytest

from common.errors import InputError, describe
from common.files import check_regular, read_json, reading, replacing, save_text


@pytest.mark.parametrize(
    "error, words",
    [
        *(
            (kind("x"), "not a list, or a damaged one")
            for kind in (ValueError, KeyError, IndexError, OverflowError, RecursionError, SystemError)
        ),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), "not a list, or a damaged one"),
        (OSError(22, "Invalid argument"), "not a list, or a damaged one"),  # an offset in the file that leads nowhere
        (MemoryError(), "does not fit into memory"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_whatever_a_reader_raises_is_one_line_that_names_the_file(tmp_path, error, words):
    (tmp_path / "a").touch()
    with pytest.raises((InputError, OSError)) as raised, reading(tmp_path / "a", "a list"):
        raise error
    assert describe(raised.value).startswith(f"{tmp_path / 'a'}: {words}")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="a pipe, a device or a socket .expected: a regular file"):
            check_regular(path)
    with pytest.raises(InputError, match="not a file name"):
        check_regular("a\0b")
    for path, error in [(tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)]:
        with pytest.raises(error):
            check_regular(path)


@pytest.mark.parametrize("number, is_failure", [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_drive_that_cannot_flush_a_folder_is_written_to(tmp_path, monkeypatch, number, is_failure):
    """Fails if a file that is written whole counts as an error on a shared folder, or an error of the disk as none."""
    fsync = os.fsync

    def of_drive(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_drive)
    with pytest.raises(OSError, match="a.txt") if is_failure else contextlib.nullcontext():
        save_text("x", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "", '{"a": 1} x', "1" * 5000])
def test_json_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a.json: not JSON, .* \(expected: a schedule\)"):
        read_json(tmp_path / "a.json", "a schedule")


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(OSError) as error, replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert (error.value.errno, error.value.filename) == (28, str(tmp_path / "a"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("name, is_refused", [("/", True), ("folder", True), ("n" * 255, False)])
def test_where_a_file_may_be_written(tmp_path, name, is_refused):
    """Fails if a temporary file needs a longer name than the system has."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written") if is_refused else contextlib.nullcontext():
        save_text("x", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == ({"folder"} if is_refused else {"folder", name})
