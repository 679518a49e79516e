"""A few hundred of the cases of `fuzz.py`, of every kind."""

from tests import fuzz


def test_damaged_and_hostile_input_is_said_in_one_line_and_leaves_nothing():
    failures, statuses = fuzz.campaign(300, seed=1)
    assert not failures, "\n".join(failures)
    accepted = {kind for kind, status in statuses if status == 0}
    assert accepted >= {"mel", "recording", "schedule", "checkpoint", "config", "names"}, "where every case was refused nothing was tried"


def test_a_failure_would_be_seen():
    """Fails if the judge lets anything pass that it is there to find."""
    before = {"a.npy": b"a"}
    for status, errors, after, words in [
        ("traceback", "ValueError", before, "a traceback"),
        (3, "error: a", before, "status 3"),
        (2, "", before, "status 2 with 0 error lines"),
        (2, "error: a\nerror: b", before, "status 2 with 2 error lines"),
        (0, "error: a", before, "status 0 with 1 error lines"),
        (2, "error: a\nRuntimeWarning: b", before, "another line: RuntimeWarning"),
        (2, "error: a", {"a.npy": b"b"}, "an input was changed: a.npy"),
        (1, "error: a", before | {"out/.1.tmp": b""}, "a file is left: out/.1.tmp"),
        (1, "error: a", before | {"b": b""}, "a file is left: b"),
    ]:
        assert words in fuzz.judge(status, errors, before, after)
    assert fuzz.judge(2, "warning: b\nerror: a", before, before) is None
