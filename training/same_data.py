"""Is the data that of the run so far? It is recognised by what is in it: folders move, and lists are edited."""

import hashlib

EXCERPT = 4096  # bytes from the middle of each file; where it begins there may be silence


def summary(recordings):
    """What tells one set of recordings from another, whatever folder they are in and whatever order they are listed in.

    Args:
        recordings: a `datasets.Recordings`.

    Returns:
        dictionary of `digest`, of the files' names, numbers of samples and an excerpt of each; `recordings`, their number;
        and `seconds`, their length.

    Raises:
        OSError: a recording cannot be read.
    """
    files = sorted((path.name, n_samples, _excerpt(path)) for path, n_samples in zip(recordings.paths, recordings.n_samples))
    files += sorted((path.name, _excerpt(path)) for path in recordings.mel_paths or ())
    digest = hashlib.sha256()
    for file in files:
        digest.update(repr(file).encode())
    seconds = sum(recordings.n_samples) / recordings.mel_config.sample_rate
    return {"digest": digest.hexdigest(), "recordings": len(recordings), "seconds": seconds}


def n_shared(recordings, others):
    """How many of `recordings` are in `others` too, by their number of samples and an excerpt; both as in `summary`."""
    files, of_others = zip(recordings.paths, recordings.n_samples), zip(others.paths, others.n_samples)
    lengths = set(recordings.n_samples)
    found = {(n_samples, _excerpt(path)) for path, n_samples in of_others if n_samples in lengths}
    lengths = {n_samples for n_samples, _ in found}
    return sum(n_samples in lengths and (n_samples, _excerpt(path)) in found for path, n_samples in files)


def _excerpt(path):
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - EXCERPT, 0) // 2)
        return file.read(EXCERPT)


def describe_data(of_list):
    """Number and length of what a `summary` is of, in words."""
    return f"{of_list['recordings']} recordings of {of_list['seconds'] / 3600:.2f} h"


def changed_lists(before, now):
    """Which of the lists, "training" and "validation", hold other recordings than they did.

    Args:
        before: list -> `summary` as a checkpoint has it.
        now: the same as it is now.
    """
    return [name for name in now if now[name]["digest"] != before[name]["digest"]]
