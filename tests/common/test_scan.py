"""The files of a folder: which are found, under which names, and how often."""

import os

import pytest

from common.scan import scan


@pytest.fixture
def folder(tmp_path):
    """A folder of recordings, one of them hidden, with what people have beside them."""
    kept = ["b/c/d.wav", "b.flac", "a.WAV", "b/a.wav", "folder.wav/a.wav", "elsewhere/e.wav", ".hidden/h.wav"]
    for name in [*kept, "a.txt", "wav", "c.wave", "._a.wav", ".b.wav", ".trash/c.wav", "b/._f.wav"]:
        path = tmp_path / ("" if name.startswith(("elsewhere", ".hidden")) else "tree") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "tree"


def names(folder):
    return [path.relative_to(folder).as_posix() for path in scan(folder, {".wav", ".flac"})]


def test_recordings_of_all_subfolders_are_found_in_order(folder):
    """Fails if suffixes in capitals count as others, or hidden files and folders as those of the user."""
    os.mkfifo(folder / "pipe.wav")
    (folder / "broken.wav").symlink_to("nowhere.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    assert names(folder) == ["a.WAV", "b/a.wav", "b/c/d.wav", "b.flac", "folder.wav/a.wav"]
    assert names(folder.parent / ".hidden") == ["h.wav"]  # it was named


def test_links_are_followed_once(folder):
    """Fails if a circle has no end, or a recording is listed twice: it may then be in training and test."""
    elsewhere = folder.parent / "elsewhere"
    for link, target in [
        ("linked", elsewhere),
        ("z.wav", elsewhere / "e.wav"),
        ("b/up", folder),
        ("b/self", folder / "b"),
        ("c", folder / "b"),
    ]:
        (folder / link).symlink_to(target)
    found = names(folder)
    assert {"linked/e.wav", "z.wav"} <= set(found)
    assert len(found) == 7 and [name[-7:] for name in found].count("c/d.wav") == 1


def test_a_folder_that_is_missing_or_no_folder_is_named(folder):
    for path in (folder / "none", folder / "b.flac"):
        with pytest.raises(OSError) as caught:
            scan(path, {".wav"})
        assert str(path) == str(caught.value.filename)
