"""Starts one training process per visible GPU, or several on the CPU, through torchrun: `python -m training.launch -c CONFIG`.

CUDA_VISIBLE_DEVICES says which GPUs are visible. Everything after `--` goes to torchrun, for runs on several machines:
    python -m training.launch -c CONFIG -- --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29400
"""

import logging
import os
import runpy
import signal
import sys
from pathlib import Path

from common.errors import CommandParser, non_negative_int, positive_int

TRAIN = Path(__file__).parent.parent / "train.py"
SHUTDOWN_SECONDS = "40"  # for the processes to save and end after a signal, or after one of them has failed; then they are killed


def train_parser(**options):
    """The parser of `train.py`; `options` go to `CommandParser`."""
    parser = CommandParser(description="Train a WaveGrad; the same command again goes on where the run ended.", **options)
    parser.add_argument("-c", "--config", required=True, help="configuration file")
    parser.add_argument("-l", "--logdir", help="checkpoints and TensorBoard files (default: logs/ and the name of CONFIG)")
    parser.add_argument("--init_from", metavar="WEIGHTS", help="begin a new run with the weights of a checkpoint of any kind (fine-tuning)")
    parser.add_argument("--init_from_matching", action="store_true", help="leave out weights that do not fit instead of refusing them")
    at_step = "the step of this configuration that the weights were saved at: go on from there with a new optimiser (default: 0)"
    parser.add_argument("--init_step", type=non_negative_int, default=0, metavar="N", help=at_step)
    parser.add_argument("--dry-run", action="store_true", help="check configuration, data and memory, and measure a step")
    return parser


def parse_arguments(arguments):
    """Splits a command line into the number of processes on the CPU, torchrun's options and those of `train.py`."""
    end = [*arguments, "--"].index("--")
    launcher = CommandParser(add_help=False, allow_abbrev=False)
    launcher.add_argument("--nproc", type=positive_int, metavar="N", help="train on the CPU, with N processes that share its cores")
    explanation = (
        "One process is started for each visible GPU, or one on the CPU: CUDA_VISIBLE_DEVICES=0,1 leaves GPUs 0 and 1 visible, an empty "
        "one none. For several machines: `-- --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29400` (torchrun)."
    )
    train_parser(prog="sh runs/train.sh", parents=[launcher], epilog=explanation).parse_args(arguments[:end])
    options, train_options = launcher.parse_known_args(arguments[:end])
    return options.nproc, arguments[end + 1 :], train_options


def torchrun(arguments):
    """Runs torchrun and returns an exit status: 0, also after a signal, or that of the process that was killed, or failed first."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun's own reports, said below in one line
    try:
        run.run(run.parse_args(arguments))
    except SignalException:
        return 0  # the processes have saved and said so
    except ChildFailedError as error:
        # The death of one process ends the others, within so short a time that torchrun cannot say which was first.
        rank, failure = min(error.failures.items(), key=lambda item: (item[1].exitcode >= 0, item[1].timestamp))
        if failure.exitcode < 0:
            print(f"error: process {rank} was killed by {signal.Signals(-failure.exitcode).name}", file=sys.stderr)
            return 128 - failure.exitcode
        return failure.exitcode  # it has explained itself
    return 0


def main():
    nproc, torchrun_options, train_options = parse_arguments(sys.argv[1:])
    if nproc is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from common.device import unusable_gpus
    from common.jobs import cores_each

    if problem := unusable_gpus():
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
    return torchrun([*where, "--nproc_per_node", str(n_processes), str(TRAIN), *train_options])


if __name__ == "__main__":
    sys.exit(main())
