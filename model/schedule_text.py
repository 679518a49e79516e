"""Noise schedules as commands take them: a file or a builder, and a change of its number of steps."""

import re

from common.errors import InputError, naming
from model.noise_schedule import BUILDERS, MOST_STEPS, SUFFIXES, NoiseSchedule, interpolate, repeat

FORMS = (
    "a .json, .npy or .pt file, linear:N:START:STOP, geometric:N:START:STOP, quadratic:N:START:STOP or fibonacci:N:START; "
    "after it :N for the same curve in N steps, or :xK for each beta K times"
)
_BASE = r".*\.(?:json|npy|pt)|(?:linear|geometric|quadratic)(?::[^:]*){3}|fibonacci(?::[^:]*){2}"
_TEXT = re.compile(f"({_BASE})(?::(x?)([0-9]{{1,7}}))?", re.IGNORECASE | re.DOTALL)


def find_schedule(text, n_steps=None, times=None):
    """The schedule of a text, which is what commands take.

    Args:
        text: as `FORMS` says. A text that ends in `.json`, `.npy` or `.pt` is a file, and its name may contain colons.
        n_steps, times: the same changes as numbers, see `interpolate` and `repeat`; None changes nothing.

    Raises:
        OSError: the file cannot be read.
        InputError: the text has none of the `FORMS`, or gives no schedule; the message begins with the text or the file.
    """
    base, x, number = split_text(text)
    schedule = NoiseSchedule.load(base) if base.lower().endswith(SUFFIXES) else _build(base)
    with naming(text):
        if number is not None:
            schedule = (repeat if x else interpolate)(schedule, int(number))
        if n_steps is not None:
            schedule = interpolate(schedule, n_steps)
        if times is not None:
            schedule = repeat(schedule, times)
    return schedule


def split_text(text):
    """The three parts of a text for `find_schedule`.

    Returns:
        the file or builder; "x" for a repetition, "" for a number of steps, None without a change; the number as text, or None.

    Raises:
        InputError: the text has none of the `FORMS`.
    """
    match = _TEXT.fullmatch(str(text))
    if not match:
        raise InputError(f"{text}: no noise schedule (wanted: {FORMS})")
    return match.groups()


def _build(text):
    """The schedule of a builder and its arguments in a text."""
    name, *values = text.lower().split(":")
    try:
        n_steps, *ends = int(values[0]), *map(float, values[1:])
    except ValueError:
        n_steps, ends = 0, []
    if not (1 <= n_steps <= MOST_STEPS and all(0 < end < 1 for end in ends)):
        raise InputError(f"{text}: no noise schedule (wanted: 1 to {MOST_STEPS} steps, and betas inside (0, 1))")
    with naming(text):
        return BUILDERS[name](n_steps, *ends)
