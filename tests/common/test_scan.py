"""The files of a folder: which are found, under which names, and how often."""

import os

import pytest

from common.scan import scan

SUFFIXES = {".wav", ".flac"}


@pytest.fixture
def make(tmp_path):
    """make(names, ...): files in the folder `tree`, which it returns."""

    def make(*names):
        for name in names:
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "tree"

    return make


def names(folder, **options):
    return [path.relative_to(folder).as_posix() for path in scan(folder, SUFFIXES, **options)]


def test_files_of_all_subfolders_are_found_in_order(make):
    assert names(make("b/c/d.wav", "b.flac", "a.wav", "b/a.wav", "a.txt", "wav")) == ["a.wav", "b/a.wav", "b/c/d.wav", "b.flac"]


def test_suffixes_in_capitals_are_the_same(make):
    assert names(make("a.WAV", "b.Flac", "c.wave")) == ["a.WAV", "b.Flac"]


def test_hidden_files_and_folders_are_left_out(make):
    assert names(make("._a.wav", ".b.wav", ".trash/c.wav", "d.wav", "e/._f.wav")) == ["d.wav"]


def test_a_hidden_folder_that_is_named_is_read(make):
    assert names(make(".recordings/a.wav") / ".recordings") == ["a.wav"]


def test_pipes_folders_and_broken_links_are_no_files(make):
    folder = make("folder.wav/a.wav", "b.wav")
    os.mkfifo(folder / "pipe.wav")
    (folder / "broken.wav").symlink_to("nowhere.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    assert names(folder) == ["b.wav", "folder.wav/a.wav"]


def test_linked_files_and_folders_are_followed(make, tmp_path):
    folder = make("a.wav")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.wav").touch()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "c.wav").symlink_to(elsewhere / "b.wav")
    assert names(folder) == ["a.wav", "c.wav", "linked/b.wav"]


def test_a_circle_of_links_ends(make, tmp_path):
    folder = make("a.wav", "b/c.wav")
    (folder / "b" / "up").symlink_to(folder)
    (folder / "b" / "self").symlink_to(folder / "b")
    assert names(folder) == ["a.wav", "b/c.wav"]


def test_a_folder_is_read_once(make):
    folder = make("z/a.wav")
    (folder / "early").symlink_to(folder / "z")
    assert len(names(folder)) == 1, "a recording that is listed twice may be in training and test"


def test_a_folder_that_is_missing_or_no_folder_is_named(make):
    folder = make("a.wav")
    for path in (folder / "none", folder / "a.wav"):
        with pytest.raises(OSError) as caught:
            scan(path, SUFFIXES)
        assert caught.value.filename is not None and str(path) == str(caught.value.filename)
