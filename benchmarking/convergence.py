"""Whether the fast training step trains as well as the textbook one: validation loss after a few hundred steps of both.

Both start from the same weights and see the same segments, noise and noise levels; each seed gives other ones. The spread
over the seeds is what a difference between the loops is to be judged by.
"""

import statistics
from pathlib import Path

from benchmarking.tools.tables import markdown_table
from benchmarking.training import plain_trainer
from common.errors import positive_int
from model.config import load_config
from training.trainer import Trainer

LOOPS = {"plain": plain_trainer(Trainer), "present": Trainer}
WARM_UP_SHARE = 0.1  # of the steps


def validation_loss(trainer_class, config, folder):
    """Loss of the averaged weights at the end of a run, on the same validation examples each time."""
    trainer = trainer_class(config, folder)
    for batch in trainer.batches():
        trainer.train_step(batch)
    loss, _ = trainer.evaluate()
    return loss


def add_arguments(parser):
    parser.add_argument("-c", "--config", default="configs/small-16k.json", help="configuration (default: %(default)s)")
    parser.add_argument("--steps", type=positive_int, default=500, help="of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="runs of each loop (default: %(default)s)")
    parser.add_argument("--batch_size", type=positive_int, help="segments of a step (default: the configuration's)")


def run(arguments):
    """Prints a table; returns an exit status.

    Raises:
        OSError, InputError: the configuration or its recordings cannot be used.
    """
    config = load_config(arguments.config)
    changes = {
        "n_steps": arguments.steps,
        "warmup_steps": int(WARM_UP_SHARE * arguments.steps),
        "batch_size": arguments.batch_size or config.training.batch_size,
        "micro_batch_size": None,
        "infer_grad": None,
        "stages": None,
    }
    losses = {name: [] for name in LOOPS}
    for seed in range(arguments.seeds):
        training = config.training.model_copy(update={**changes, "seed": seed})
        of_seed = config.model_copy(update={"training": training})
        for name, trainer_class in LOOPS.items():
            losses[name].append(validation_loss(trainer_class, of_seed, Path(arguments.config).parent))
            print(f"seed {seed}, {name}: {losses[name][-1]:.5f}", flush=True)
    rows = [[name, *(f"{loss:.5f}" for loss in of_one), *_mean_and_spread(of_one)] for name, of_one in losses.items()]
    difference = [b - a for a, b in zip(losses["plain"], losses["present"])]
    rows.append(["difference", *(f"{value:+.5f}" for value in difference), *_mean_and_spread(difference, "+")])
    seeds = [f"seed {seed}" for seed in range(arguments.seeds)]
    precision, batch_size = config.training.precision, changes["batch_size"]
    print(f"\n{arguments.config}, {arguments.steps} steps of {batch_size} segments, {precision}: validation loss\n")
    print(markdown_table(["loop", *seeds, "mean", "standard deviation"], rows))
    return 0


def _mean_and_spread(values, sign=""):
    return f"{statistics.mean(values):{sign}.5f}", f"{statistics.pstdev(values):.5f}"
