"""Trains a WaveGrad: `python train.py -c CONFIG`, or `sh runs/train.sh -c CONFIG` for one process per GPU.

The same command again goes on where the run ended, however it ended.
"""

import contextlib
from pathlib import Path

from common.errors import run_command
from extensions.registry import read_checkpoint
from model.config import load_config
from training import distributed
from training.checkpointing import RunFolder, changed_schedules, changes
from training.dry_run import dry_run
from training.initial_weights import begin_with
from training.launch import train_parser
from training.loop import Loop
from training.monitor import Monitor
from training.safety import StopSignal, explained_out_of_memory
from training.trainer import Trainer


def train(config, config_folder, logdir, init_from=None, **init_options):
    """Trains to the end of the configuration, from the newest checkpoint in `logdir` if there is one.

    Args:
        init_from: path of weights that a new run begins with; None begins with random ones.
        init_options: see `training.initial_weights.begin_with`.

    Returns:
        exit status.
    """
    with StopSignal() as stop_signal, contextlib.closing(RunFolder(logdir, config.training.keep_checkpoints)) as folder:
        trainer = Trainer(config, config_folder)
        lines = trainer.data.warnings()
        if init_from and not distributed.on_first(folder.checkpoints):
            lines += begin(trainer, init_from, **init_options)
        checkpoint, state, said = distributed.on_first(lambda: _open(folder, config))
        lines += said
        if state is not None:
            distributed.agree(lambda: trainer.load_state_dict(state, checkpoint))
            lines += [*changed_schedules(state, trainer), f"going on from {checkpoint}"]
        with contextlib.closing(Monitor(logdir, trainer, enabled=trainer.rank == 0)) as monitor:
            for line in lines:
                monitor.say(line)
            if trainer.step >= config.training.n_steps:
                monitor.say(f"nothing to do: training.n_steps is {config.training.n_steps}, and so many were done")
            return Loop(trainer, folder, monitor, stop_signal).run(is_new=state is None)


def _open(folder, config):
    """Opens the run's folder.

    Returns:
        newest checkpoint and its state, or None and None; and lines to say.
    """
    folder.open()
    checkpoint, state, lines = folder.newest()
    lines = [*folder.warnings, *lines]
    if state is not None:
        for key, old, new in changes(state, config, checkpoint):
            lines.append(f"changed since {checkpoint.name}: {key} was {old}, is {new}")
    return checkpoint, state, lines


def begin(trainer, path, **options):
    """Puts the weights of a file, which the first process reads, into a new trainer; returns lines to say."""
    checkpoint = distributed.on_first(lambda: read_checkpoint(path))
    return distributed.agree(lambda: begin_with(trainer, checkpoint, path, **options))


def main():
    arguments = train_parser().parse_args()
    distributed.start()
    config = distributed.agree(lambda: load_config(arguments.config))
    config_folder = Path(arguments.config).parent
    init_options = {"matching_only": arguments.init_from_matching, "step": arguments.init_step}
    with explained_out_of_memory(config.training):
        if arguments.dry_run:
            trainer = Trainer(config, config_folder)
            lines = trainer.data.warnings()
            if arguments.init_from:
                lines += begin(trainer, arguments.init_from, **init_options)
            lines += dry_run(trainer)
            if trainer.rank == 0:
                print("\n".join(lines))
            status = 0
        else:
            logdir = arguments.logdir or Path("logs") / Path(arguments.config).stem
            status = train(config, config_folder, logdir, arguments.init_from, **init_options)
    distributed.end()
    return status


def command():
    """Runs the command and exits."""
    with distributed.without_teardown():
        run_command(main)


if __name__ == "__main__":
    command()
