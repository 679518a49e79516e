"""Candidates of `benchmark.py search`: a grid over betas, and points of a box of schedules for optimisers."""

import math
import warnings

import numpy as np
import optuna

from common.errors import InputError
from model.noise_schedule import NoiseSchedule, from_log_snr, interpolate

FIRST_LOG_SNR = (2.0, 14.0)  # beta_1 from 0.12 down to 8e-7
FINAL_NOISE_LEVEL = (0.05, 0.98)  # from beneath that of the training schedule (0.08) to above all known schedules (0.964)
LONGEST_GAP = math.log(8)  # a step may be 8 times as long as the first, or an eighth, in log-SNR
N_MULTIPLIERS = 9
LARGEST_WHOLE_GRID = N_MULTIPLIERS**7  # candidates; more are only drawn from
MOST_DRAWS = 1000  # for each candidate wanted, before the constraints count as unsatisfiable
BATCH_SIZE = 4  # points proposed before their scores are known; fixed, so that more processes change nothing


def _log_snr(noise_level):
    return math.log(noise_level**2) - math.log1p(-(noise_level**2))


class ScheduleCurves:
    """The box `[0, 1]^n_dimensions` of schedules of `n_steps` steps: final noise level, first one, and how steps are spaced between them.

    The coordinates are those of the log-SNR. Every point is a valid schedule, whose noise level falls from step to step.

    Args:
        n_knots: the curve is drawn through as many points, equally many steps apart; with `n_steps` or more every step
            has its own.
        final_noise_level: (least, most) noise level at the last step.
    """

    def __init__(self, n_steps, n_knots, final_noise_level=FINAL_NOISE_LEVEL):
        self.n_steps = n_steps
        self.n_knots = min(n_steps, n_knots)
        # Final, first, and the length of every gap but one relative to it.
        self.n_dimensions = {1: 1, 2: 2}.get(self.n_knots, self.n_knots)
        self.final_log_snr = (_log_snr(final_noise_level[1]), _log_snr(final_noise_level[0]))

    def schedule(self, point):
        """The `NoiseSchedule` of a point `[n_dimensions]`."""
        point = np.clip(point, 0, 1)
        final = self.final_log_snr[1] + (self.final_log_snr[0] - self.final_log_snr[1]) * point[0]
        if self.n_knots == 1:
            return from_log_snr([final])
        # Where the two ranges overlap, the first step still is cleaner than the last.
        first = max(FIRST_LOG_SNR[0] + (FIRST_LOG_SNR[1] - FIRST_LOG_SNR[0]) * point[1], final + 0.1)
        gaps = np.exp(np.concatenate([[0.0], LONGEST_GAP * (2 * np.asarray(point[2:]) - 1)]))
        knots = first + (final - first) * np.concatenate([[0.0], np.cumsum(gaps) / gaps.sum()])
        return interpolate(from_log_snr(knots), self.n_steps)

    def point(self, schedule):
        """The point of the box nearest to a schedule with any number of steps; inverse of `schedule` inside the box."""
        if self.n_knots == 1:
            knots = schedule.log_snr[-1:]
        else:
            knots = interpolate(schedule, self.n_knots).log_snr
        span = self.final_log_snr[0] - self.final_log_snr[1]
        point = [(knots[-1] - self.final_log_snr[1]) / span]
        if self.n_knots > 1:
            point.append((knots[0] - FIRST_LOG_SNR[0]) / (FIRST_LOG_SNR[1] - FIRST_LOG_SNR[0]))
            gaps = -np.diff(knots)
            point.extend((np.log(gaps[1:] / gaps[0]) / LONGEST_GAP + 1) / 2)
        return np.clip(point, 0, 1)

    @property
    def middle(self):
        """A start without prior knowledge: both ends in the middle of their ranges, equal steps."""
        return np.full(self.n_dimensions, 0.5)


def rounded(schedule):
    """The schedule with betas to six digits, as they are written down."""
    return NoiseSchedule([float(f"{beta:.6g}") for beta in schedule.betas], schedule.name, schedule.source)


def default_ladder(n_steps):
    """Powers of ten from 1e-6 to 0.1, as many as there are steps; six of them are the paper's."""
    if n_steps == 1:
        return [0.1]
    return np.geomspace(1e-6, 0.1, n_steps).tolist()


def _betas(numbers, ladder):
    """Candidates `[K, N]` by their numbers in the grid, which count the multipliers in base 9."""
    digits = numbers[:, None] // N_MULTIPLIERS ** np.arange(len(ladder))
    multipliers = (digits % N_MULTIPLIERS + 1).astype(np.float64)
    # As decimal digits would read: 3 x 1e-6 is 3e-06 and not 2.9999999999999997e-06.
    return np.round(multipliers * np.asarray(ladder), 15)


def _allowed(betas, non_decreasing, final_noise_level):
    allowed = (betas < 1).all(axis=1)
    if non_decreasing:
        allowed &= (np.diff(betas, axis=1) >= 0).all(axis=1)
    if final_noise_level is not None:
        level = np.sqrt(np.prod(1 - betas, axis=1, where=betas < 1))
        allowed &= (level >= final_noise_level[0]) & (level <= final_noise_level[1])
    return allowed


def grid_candidates(ladder, n_candidates=None, seed=0, non_decreasing=False, final_noise_level=None):
    """The candidates of a grid that meet the constraints.

    Args:
        ladder: N values; step n takes 1 to 9 times the n-th.
        n_candidates: draw as many of them, without repetition; None for all.
        non_decreasing: only betas that never fall from a step to the next noisier one.
        final_noise_level: (least, most) noise level at the last step.

    Returns:
        `[K, N]` betas.

    Raises:
        InputError: the ladder or the number is impossible, or too few candidates meet the constraints.
    """
    if not len(ladder) or not all(0 < value < 1 for value in ladder):
        raise InputError(f"the ladder is {list(ladder)} (expected: one or more values inside (0, 1))")
    if n_candidates is not None and n_candidates < 1:
        raise InputError(f"{n_candidates} candidates are asked for (expected: 1 or more)")
    size = N_MULTIPLIERS ** len(ladder)
    generator = np.random.default_rng(seed)
    if size <= LARGEST_WHOLE_GRID:
        numbers = np.arange(size)
        numbers = numbers[_allowed(_betas(numbers, ladder), non_decreasing, final_noise_level)]
        if n_candidates is None and len(numbers):
            return _betas(numbers, ladder)
        if len(numbers) < (n_candidates or 1):
            raise InputError(f"{len(numbers)} candidates of the grid meet the constraints (expected: {n_candidates or 1})")
        return _betas(generator.permutation(numbers)[:n_candidates], ladder)
    if n_candidates is None:
        raise InputError(f"the grid has {size} candidates, too many to try them all (expected: a number of candidates)")
    found = {}
    for _ in range(MOST_DRAWS):
        multipliers = generator.integers(1, N_MULTIPLIERS + 1, (n_candidates, len(ladder)))
        betas = np.round(multipliers * np.asarray(ladder), 15)
        for row in betas[_allowed(betas, non_decreasing, final_noise_level)]:
            found.setdefault(row.tobytes(), row)
        if len(found) >= n_candidates:
            return np.stack(list(found.values())[:n_candidates])
    raise InputError(f"{len(found)} candidates were found that meet the constraints (expected: {n_candidates})")


# Optimisers: generators of batches of points in a unit box. `batch = next(search)`, then `batch = search.send(losses)`, one loss a point,
# lower is better. What is proposed follows from the seed and the losses alone, so a search can be replayed.


def tpe_search(start, seed):
    """Tree-structured Parzen estimator, over all dimensions together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True))
    names = [f"{i:03d}" for i in range(len(start))]
    box = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    study.enqueue_trial(dict(zip(names, map(float, start))))
    while True:
        trials = [study.ask(box) for _ in range(BATCH_SIZE)]
        losses = yield [np.array([trial.params[name] for name in names]) for trial in trials]
        for trial, loss in zip(trials, losses):
            study.tell(trial, float(loss))


OPTIMIZERS = {"tpe": tpe_search}
