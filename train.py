"""Trains a WaveGrad: `python train.py -c CONFIG`, or `sh runs/train.sh -c CONFIG` for one process per GPU.

The same command again goes on where the run ended, however it ended.
"""

from pathlib import Path

from model.config import load_config
from model.errors import CommandParser, run_command
from training import processes
from training.dry_run import dry_run, explained_out_of_memory
from training.loop import Loop
from training.monitor import Monitor
from training.previews import PreviewSampling
from training.run_folder import RunFolder
from training.same_run import changes
from training.stop_signal import StopSignal
from training.trainer import Trainer, versions


def train(config, config_folder, logdir):
    """Trains to the end of the configuration, from the newest checkpoint in `logdir` if there is one.

    Returns:
        exit status.
    """
    with StopSignal() as stop_signal:
        folder = RunFolder(logdir, config.training.keep_checkpoints)
        try:
            checkpoint, state, lines = processes.from_first(processes.agree(lambda: _open(folder, config)))
            trainer = processes.agree(lambda: Trainer(config, config_folder))
            if state is not None:
                trainer.load_state_dict(state)
                lines.append(f"going on from {checkpoint}")
            preview_sampling = PreviewSampling.of(trainer)
            monitor = Monitor(logdir, trainer, preview_sampling.schedule, enabled=trainer.rank == 0)
            for line in lines:
                monitor.say(line)
            if trainer.step >= config.training.n_steps:
                monitor.say(f"nothing to do: training.n_steps is {config.training.n_steps}, and so many were done")
            try:
                with explained_out_of_memory(config.training):
                    return Loop(trainer, folder, monitor, stop_signal, preview_sampling).run()
            finally:
                monitor.close()
        finally:
            folder.close()


def _open(folder, config):
    """Opens the run's folder on the first process.

    Returns:
        newest checkpoint and its state, or None and None; and lines to say.
    """
    if processes.rank() != 0:
        return None
    folder.open()
    checkpoint, state, lines = folder.newest()
    if state is not None:
        for key, old, new in changes(state, config, checkpoint):
            lines.append(f"changed since {checkpoint.name}: {key} was {old}, is {new}")
        if state["versions"] != versions():
            lines.append(
                f"warning: {checkpoint.name} is from {state['versions']}, this is {versions()}: "
                "the run may differ in the last digits from one that was never interrupted"
            )
    return checkpoint, state, lines


def main():
    parser = CommandParser(description="Train a WaveGrad; the same command again goes on where the run ended.")
    parser.add_argument("-c", "--config", required=True, help="configuration file")
    parser.add_argument("-l", "--logdir", help="checkpoints and TensorBoard files (default: logs/ and the name of CONFIG)")
    parser.add_argument("--dry-run", action="store_true", help="check configuration, data and memory, and measure a step")
    arguments = parser.parse_args()
    processes.start()
    try:
        config = processes.agree(lambda: load_config(arguments.config))
        config_folder = Path(arguments.config).parent
        if not arguments.dry_run:
            return train(config, config_folder, arguments.logdir or Path("logs") / Path(arguments.config).stem)
        trainer = processes.agree(lambda: Trainer(config, config_folder))
        lines = processes.agree(lambda: dry_run(trainer))
        if trainer.rank == 0:
            print("\n".join(lines))
        return 0
    finally:
        processes.end()


if __name__ == "__main__":
    with processes.without_teardown():
        run_command(main)
