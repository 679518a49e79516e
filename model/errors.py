"""Bad input from outside, and what a command says of it."""

import sys


class InputError(ValueError):
    """Something given from outside cannot be used; the message is one line that names it, what was found and what was wanted."""


def describe(error):
    """One line for an `InputError` or an `OSError`."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def check_counts(arguments, *names):
    """Of the options by these names, each a number, a list of numbers or None, none is below 1.

    Raises:
        InputError: one is.
    """
    for name in names:
        value = getattr(arguments, name)
        least = min(value) if isinstance(value, list) else value
        if least is not None and least < 1:
            raise InputError(f"--{name} is {least} (wanted: 1 or more)")


def run_command(main):
    """Runs a command's `main` and exits with its status; bad input is one line on standard error and status 2."""
    try:
        status = main()
    except (InputError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
