"""Starts one training process per visible GPU, or several on the CPU, through torchrun: `python -m training.launch -c CONFIG`.

CUDA_VISIBLE_DEVICES says which GPUs are visible. Everything after `--` goes to torchrun, for runs on several machines:
    python -m training.launch -c CONFIG -- --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29400
"""

import logging
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

from common.errors import CommandParser, non_negative_int, positive_int

TRAIN = Path(__file__).parent.parent / "train.py"
SHUTDOWN_SECONDS = "40"  # for the processes to save and end after a signal, or after one of them has failed; then they are killed
ENDED = "WAVEGRAD_ENDED"  # environment variable: a folder where each process of this machine leaves a file when it has ended well


def train_parser(**options):
    """The parser of `train.py`; `options` go to `CommandParser`."""
    parser = CommandParser(description="Train a WaveGrad; the same command again goes on where the run ended.", **options)
    parser.add_argument("-c", "--config", required=True, help="configuration file")
    parser.add_argument("-l", "--logdir", help="checkpoints and TensorBoard files (default: logs/ and the name of CONFIG)")
    parser.add_argument("--init_from", metavar="WEIGHTS", help="begin a new run with the weights of a checkpoint of any kind (fine-tuning)")
    parser.add_argument("--init_from_matching", action="store_true", help="leave out weights that do not fit instead of refusing them")
    parser.add_argument(
        "--init_step",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="the step of this configuration that the weights of --init_from "
        "were saved at: go on from there with a new optimiser (default: 0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check configuration, data and memory, and measure a step")
    return parser


def parse_arguments(arguments):
    """Splits a command line into the number of processes on the CPU, torchrun's options and those of `train.py`."""
    own, torchrun_options = arguments, []
    if "--" in arguments:
        own, torchrun_options = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = CommandParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--nproc", type=positive_int, metavar="N", help="train on the CPU, with N processes that share its cores")
    options, train_options = parser.parse_known_args(own)
    if not {"-h", "--help"}.isdisjoint(train_options):
        _print_help(parser)
        sys.exit(0)
    return options.nproc, torchrun_options, train_options


def _print_help(own_parser):
    parser = train_parser(
        parents=[own_parser],
        usage="sh runs/train.sh -c CONFIG [-l LOGDIR] [--init_from WEIGHTS [--init_from_matching] [--init_step N]] [--dry-run] "
        "[--nproc N] [-- TORCHRUN_OPTIONS]",
        epilog="TORCHRUN_OPTIONS, for several machines: `-- --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29400`. "
        "One process is started for each visible GPU, or one on the CPU: CUDA_VISIBLE_DEVICES=0,1 leaves GPUs 0 and 1 visible, "
        "CUDA_VISIBLE_DEVICES= none.",
    )
    parser.print_help()


def ended_well(rank):
    """Lets a process tell the launcher that it has done all it was to do; torchrun does not say so after a signal."""
    if ENDED in os.environ:
        Path(os.environ[ENDED], str(rank)).touch()


def torchrun(arguments, n_processes):
    """Runs torchrun and returns the exit status of the process that was killed, or failed first, or 0.

    Args:
        n_processes: on this machine.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun's own reports, said below in one line
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ENDED] = folder
        try:
            run.run(run.parse_args(arguments))
        except SignalException:
            return _status_after_a_signal(len(os.listdir(folder)), n_processes)
        except ChildFailedError as error:
            return _status_after_a_failure(error.failures)
    return 0


def _status_after_a_signal(n_ended, n_processes):
    if n_ended == n_processes:  # they have saved and said so
        return 0
    seconds = os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
    print(
        f"error: expected all {n_processes} processes to save and end within {seconds} s of the signal, got {n_ended}; "
        "the newest checkpoint may be an earlier one",
        file=sys.stderr,
    )
    return 1


def _status_after_a_failure(failures):
    # The death of one process ends the others, within so short a time that torchrun cannot say which was first.
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode >= 0, item[1].timestamp))
    if failure.exitcode < 0:
        print(f"error: process {rank} was killed by {signal.Signals(-failure.exitcode).name}", file=sys.stderr)
        return 128 - failure.exitcode
    if failure.exitcode > 2:  # below, it has explained itself
        print(f"error: process {rank} ended with status {failure.exitcode}", file=sys.stderr)
    return failure.exitcode


def main():
    nproc, torchrun_options, train_options = parse_arguments(sys.argv[1:])
    if nproc is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from common.device import unusable_gpus
    from common.jobs import cores_each

    problem = unusable_gpus()
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    n_processes = nproc or max(torch.cuda.device_count(), 1)
    if n_processes == 1 and not torchrun_options:
        sys.argv = [str(TRAIN), *train_options]
        runpy.run_path(str(TRAIN), run_name="__main__")  # exits
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_each(n_processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup it stays so
        os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    where = torchrun_options or ["--standalone"]
    return torchrun([*where, "--nproc_per_node", str(n_processes), str(TRAIN), *train_options], n_processes)


if __name__ == "__main__":
    sys.exit(main())
