"""What a file holds, against a pydantic model: one line about what is wrong."""

import contextlib

from pydantic import ValidationError

from common.errors import InputError, shortened

# What users of other WaveGrads look for in a configuration.
HINTS = {"logdir": " (the log folder is an option of training: -l FOLDER)"}


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
    # Between a section of several kinds and its key pydantic puts the tag of the kind: it stands in angle brackets.
    key = shortened(".".join(part for part in map(str, problem["loc"]) if not part.startswith("<")))
    if problem["type"] == "missing":
        return f"missing key '{key}'"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'" + HINTS.get(problem["loc"][-1], "")
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    found = "" if problem["type"] == "value_error" else f", found {shortened(repr(problem['input']))}"
    return f"{key}: {message}{found}"
