"""How fast, how good, and which noise schedule: `python benchmark.py COMMAND --help`."""

import importlib
import sys

from common.errors import CommandParser, run_command

COMMANDS = {
    "rtf": ("benchmarking.rtf", "measure the real-time factor and the memory of synthesis"),
    "quality": ("benchmarking.quality", "measure the quality of a network with schedules and samplers"),
    "search": ("benchmarking.search", "find the best noise schedule of a number of steps"),
    "report": ("benchmarking.report", "make a page to listen to from a folder that 'quality' wrote"),
}


def main():
    parser = CommandParser(description=__doc__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if sys.argv[1:2] == [name]:  # only what is used is imported: some of it takes seconds
            module = importlib.import_module(module_name)
            subparser.description = module.__doc__
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    arguments = parser.parse_args()
    return arguments.run(arguments)


def command():
    """Runs the command and exits."""
    run_command(main)


if __name__ == "__main__":
    command()
