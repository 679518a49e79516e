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
        is_new = not distributed.on_first(folder.checkpoints)
        trainer, lines = make_trainer(config, config_folder, init_from if is_new else None, **init_options)
        warnings, (checkpoint, state, damaged) = distributed.on_first(lambda: (folder.open(), folder.newest()))
        lines += warnings + damaged
        if state is not None:
            lines += distributed.agree(lambda: go_on(trainer, state, checkpoint))
        with contextlib.closing(Monitor(logdir, trainer, enabled=trainer.rank == 0)) as monitor:
            for line in lines:
                monitor.say(line)
            if trainer.step >= config.training.n_steps:
                monitor.say(f"nothing to do: training.n_steps is {config.training.n_steps}, and so many were done")
            return Loop(trainer, folder, monitor, stop_signal).run(is_new=state is None)


def make_trainer(config, config_folder, init_from=None, **init_options):
    """A new `Trainer`, with the weights of a file that the first process reads, if one is given; and lines to say."""
    trainer = Trainer(config, config_folder)
    lines = trainer.data.warnings()
    if init_from:
        weights = distributed.on_first(lambda: read_checkpoint(init_from))
        lines += distributed.agree(lambda: begin_with(trainer, weights, init_from, **init_options))
    return trainer, lines


def go_on(trainer, state, checkpoint):
    """Brings a new trainer to the state of a checkpoint; returns lines to say."""
    lines = changes(state, trainer.config, checkpoint)
    trainer.load_state_dict(state, checkpoint)
    return [*lines, *changed_schedules(state, trainer), f"going on from {checkpoint}"]


def main():
    arguments = train_parser().parse_args()
    distributed.start()
    config = distributed.agree(lambda: load_config(arguments.config))
    config_folder, status = Path(arguments.config).parent, 0
    init = {"init_from": arguments.init_from, "matching_only": arguments.init_from_matching, "step": arguments.init_step}
    with explained_out_of_memory(config.training):
        if arguments.dry_run:
            trainer, lines = make_trainer(config, config_folder, **init)
            lines += dry_run(trainer)
            if trainer.rank == 0:
                print("\n".join(lines))
        else:
            status = train(config, config_folder, arguments.logdir or Path("logs") / Path(arguments.config).stem, **init)
    distributed.end()
    return status


def command():
    """Runs the command and exits."""
    with distributed.without_teardown():
        run_command(main)


if __name__ == "__main__":
    command()
