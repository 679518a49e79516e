"""Optimisers, whose next points depend on the scores so far. Each is a generator of batches of points in a unit box.

`batch = next(search)`, then `batch = search.send(losses)`, one loss a point, lower is better. What is proposed follows from
the seed and the losses alone, so a search can be replayed.
"""

import warnings

import numpy as np
import optuna
from cmaes import CMA

BATCH_SIZE = 4  # points proposed before their scores are known; fixed, so that more processes change nothing
CMA_SIGMA = 0.2  # of a box of side 1: CMA-ES works best with the optimum within about three of them


def cma_search(start, seed):
    """CMA-ES (Hansen), a population at a time."""
    bounds = np.tile([0.0, 1.0], (max(len(start), 2), 1))
    # The method needs two dimensions; where there is one, the second has no effect.
    mean = np.resize(start, len(bounds)).astype(np.float64)
    optimizer = CMA(mean=mean, sigma=CMA_SIGMA, bounds=bounds, seed=seed)
    first = [mean] + [optimizer.ask() for _ in range(optimizer.population_size - 1)]
    points = first
    while True:
        losses = yield [point[: len(start)] for point in points]
        optimizer.tell(list(zip(points, losses)))
        points = [optimizer.ask() for _ in range(optimizer.population_size)]


def _optuna_search(sampler, start):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=sampler)
    names = [f"{i:03d}" for i in range(len(start))]
    box = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    study.enqueue_trial(dict(zip(names, map(float, start))))
    while True:
        trials = [study.ask(box) for _ in range(BATCH_SIZE)]
        losses = yield [np.array([trial.params[name] for name in names]) for trial in trials]
        for trial, loss in zip(trials, losses):
            study.tell(trial, float(loss))


def tpe_search(start, seed):
    """Tree-structured Parzen estimator, over all dimensions together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return _optuna_search(sampler, start)


OPTIMIZERS = {"tpe": tpe_search, "cma": cma_search}
