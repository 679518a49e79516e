"""What a file holds, against a pydantic model: one line about what is wrong."""

import contextlib

from pydantic import ValidationError

from common.errors import InputError, shortened

# What users of other WaveGrads look for in a configuration.
HINTS = {"logdir": " (the log folder is an option of training: -l FOLDER)"}

KINDS = ("energy", "spectral")  # of a prior: pydantic puts the kind between section and key


@contextlib.contextmanager
def validating(origin):
    """Turns the first error that pydantic finds in its body into one line.

    Raises:
        InputError: names `origin`, the key, what was found and what was expected.
    """
    try:
        yield
    except ValidationError as error:
        raise InputError(f"{origin}: {_explained(error.errors()[0])}") from None


def _explained(problem):
    parts = [str(part) for part in problem["loc"]]
    key = shortened(".".join(part for n, part in enumerate(parts) if parts[n - 1 : n] != ["prior"] or part not in KINDS))
    if problem["type"] == "missing":
        return f"missing key '{key}'"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'" + HINTS.get(problem["loc"][-1], "")
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    found = "" if problem["type"] == "value_error" else f", found {shortened(repr(problem['input']))}"
    return f"{key}: {message}{found}"
