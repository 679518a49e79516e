"""Candidates of `benchmark.py search`: a grid over betas, and points of a box of schedules for Optuna."""

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
LONGEST_GRID = 7  # steps; nine times as many candidates for each more
BATCH_SIZE = 4  # candidates proposed before their scores are known; fixed, so that more processes change nothing


def _log_snr(noise_level):
    return math.log(noise_level**2) - math.log1p(-(noise_level**2))


class ScheduleCurves:
    """The box `[0, 1]^n_knots` of schedules of `n_steps` steps: final noise level, first one, and how steps are spaced between them.

    The coordinates are those of the log-SNR. Every point is a valid schedule, whose noise level falls from step to step.

    Args:
        n_knots: the curve is drawn through as many points, equally many steps apart; with `n_steps` or more every step
            has its own.
        final_noise_level: (least, most) noise level at the last step.
    """

    def __init__(self, n_steps, n_knots, final_noise_level=FINAL_NOISE_LEVEL):
        self.n_steps = n_steps
        self.n_knots = min(n_steps, n_knots)  # dimensions: final, first, and the length of every gap but one relative to it
        self.final_log_snr = (_log_snr(final_noise_level[1]), _log_snr(final_noise_level[0]))

    def schedule(self, point):
        """The `NoiseSchedule` of a point `[n_knots]`."""
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
        knots = schedule.log_snr[-1:] if self.n_knots == 1 else interpolate(schedule, self.n_knots).log_snr
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
        return np.full(self.n_knots, 0.5)


def rounded(schedule):
    """The schedule with betas to six digits, as they are written down."""
    return NoiseSchedule([float(f"{beta:.6g}") for beta in schedule.betas], schedule.name, schedule.source)


def default_ladder(n_steps):
    """`n_steps` values from 1e-6 to 0.1 at equal ratios; six are the paper's powers of ten, a single one is 0.1."""
    return np.geomspace(0.1, 1e-6, n_steps)[::-1].tolist()


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
        InputError: the ladder is impossible or too long, or too few candidates meet the constraints.
    """
    if not len(ladder) or not all(0 < value < 1 for value in ladder):
        raise InputError(f"the ladder is {list(ladder)} (expected: one or more values inside (0, 1))")
    if len(ladder) > LONGEST_GRID:
        raise InputError(f"a grid of {len(ladder)} steps is too large (expected: {LONGEST_GRID} steps or fewer, or --method tpe)")
    multipliers = np.arange(N_MULTIPLIERS ** len(ladder))[:, None] // N_MULTIPLIERS ** np.arange(len(ladder)) % N_MULTIPLIERS + 1
    # As decimal digits would read: 3 x 1e-6 is 3e-06 and not 2.9999999999999997e-06.
    betas = np.round(multipliers * np.asarray(ladder), 15)
    betas = betas[(betas < 1).all(axis=1)]
    if non_decreasing:
        betas = betas[(np.diff(betas, axis=1) >= 0).all(axis=1)]
    if final_noise_level is not None:
        levels = np.sqrt(np.prod(1 - betas, axis=1))
        betas = betas[(levels >= final_noise_level[0]) & (levels <= final_noise_level[1])]
    if len(betas) < (n_candidates or 1):
        raise InputError(f"{len(betas)} candidates of the grid meet the constraints (expected: {n_candidates or 1})")
    return betas if n_candidates is None else np.random.default_rng(seed).permutation(betas)[:n_candidates]


def propose(curves, start, seed, n_candidates, losses):
    """Optuna's tree-structured Parzen estimator, over all dimensions together. What it proposes follows from the seed and the losses alone.

    Args:
        curves: `ScheduleCurves`.
        start: its first point.
        losses: a function of a list of betas, gives the loss of each; lower is better.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True))
    box = {f"{i:03d}": optuna.distributions.FloatDistribution(0, 1) for i in range(len(start))}
    study.enqueue_trial(dict(zip(box, map(float, start))))
    for n_done in range(0, n_candidates, BATCH_SIZE):
        trials = [study.ask(box) for _ in range(min(BATCH_SIZE, n_candidates - n_done))]
        schedules = [curves.schedule([trial.params[name] for name in box]) for trial in trials]
        for trial, loss in zip(trials, losses([rounded(schedule).betas.tolist() for schedule in schedules])):
            study.tell(trial, float(loss))
