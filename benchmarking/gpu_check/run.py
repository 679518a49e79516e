"""`benchmark.py gpu_check`: all that only a GPU can show, cheap checks first, each a line with what was expected and found.

It ends with a Markdown report, and with status 1 if a check failed. `--device cpu` rehearses it without a GPU.
"""

import tempfile
import time
from pathlib import Path

from benchmarking.gpu_check import inference, numbers, speed, training
from benchmarking.gpu_check.context import Context, Finding, environment
from benchmarking.tools.tables import check_output, markdown_table
from benchmarking.tools.timing import device_name
from common.device import pick_device
from common.errors import InputError, one_line, positive_float, positive_int
from common.files import save_text

CHECKS = {
    "environment": environment,
    "agreement": numbers.agreement,
    "out_of_memory": training.out_of_memory,
    "inference": inference.inference,
    "precisions": training.precisions,
    "resumption": training.resumption,
    "one_process": training.one_process,
    "two_processes": training.two_processes,
    "memory": speed.memory,
    "factors": speed.factors,
}
WORDS = {True: "pass", False: "FAIL", None: "-"}


def add_arguments(parser):
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--steps", type=positive_int, default=60, help="of each training (default: %(default)s)")
    parser.add_argument("--minutes", type=positive_float, default=10, help="after which no further check begins (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("logs/gpu_check.md"), help="the report (default: %(default)s)")


def findings_of(name, context):
    """Yields the findings of a check; what it raises is one too."""
    try:
        yield from CHECKS[name](context)
    except Exception as error:  # one check must not end the others
        yield Finding(name, "a result", f"{type(error).__name__}: {one_line(error)}", False)


def run(arguments):
    device = pick_device(arguments.device)
    if str(device) not in ("cuda", "cpu"):
        raise InputError(f"--device {arguments.device} (wanted: cuda, or cpu for a rehearsal; CUDA_VISIBLE_DEVICES chooses the card)")
    if arguments.output.parent == Path("logs"):  # which no clone has
        arguments.output.parent.mkdir(exist_ok=True)
    check_output(arguments.output)
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        context = Context(device, folder, arguments.steps)
        for name in arguments.only or CHECKS:
            if time.monotonic() - began > 60 * arguments.minutes:
                findings = [Finding(name, "a result", f"not begun after {arguments.minutes:g} minutes", False)]
            else:
                findings = findings_of(name, context)
            for finding in findings:
                seconds = f"{time.monotonic() - began:.0f}"
                rows.append([finding.what, finding.expected, finding.found, WORDS[finding.passed], seconds])
                print(f"[{seconds:>4} s] {WORDS[finding.passed]}  {finding.what}: {finding.found}", flush=True)
    results = [row[3] for row in rows]
    summary = f"{results.count('pass')} passed, {results.count('FAIL')} failed, {time.monotonic() - began:.0f} s, {device_name(device)}"
    table = markdown_table(["check", "expected", "found", "", "after (s)"], rows)
    save_text(f"# What the GPU shows\n\n{summary}\n\n{table}\n", arguments.output)
    print(f"{summary}; {arguments.output}")
    return 1 if "FAIL" in results else 0
