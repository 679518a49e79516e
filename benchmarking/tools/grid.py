"""Grid search over betas: multipliers 1..9 times an exponential ladder (WaveGrad's "manual" schedules)."""

import numpy as np

from common.errors import InputError

N_MULTIPLIERS = 9
LARGEST_WHOLE_GRID = N_MULTIPLIERS**7  # candidates; more are only drawn from
MOST_DRAWS = 1000  # for each candidate wanted, before the constraints count as unsatisfiable


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
        raise InputError(f"the ladder is {list(ladder)} (wanted: one or more values inside (0, 1))")
    if n_candidates is not None and n_candidates < 1:
        raise InputError(f"{n_candidates} candidates are asked for (wanted: 1 or more)")
    size = N_MULTIPLIERS ** len(ladder)
    generator = np.random.default_rng(seed)
    if size <= LARGEST_WHOLE_GRID:
        numbers = np.arange(size)
        numbers = numbers[_allowed(_betas(numbers, ladder), non_decreasing, final_noise_level)]
        if n_candidates is None and len(numbers):
            return _betas(numbers, ladder)
        if len(numbers) < (n_candidates or 1):
            raise InputError(f"{len(numbers)} candidates of the grid meet the constraints (wanted: {n_candidates or 1})")
        return _betas(generator.permutation(numbers)[:n_candidates], ladder)
    if n_candidates is None:
        raise InputError(f"the grid has {size} candidates, too many to try them all (wanted: a number of candidates)")
    found = {}
    for _ in range(MOST_DRAWS):
        multipliers = generator.integers(1, N_MULTIPLIERS + 1, (n_candidates, len(ladder)))
        betas = np.round(multipliers * np.asarray(ladder), 15)
        for row in betas[_allowed(betas, non_decreasing, final_noise_level)]:
            found.setdefault(row.tobytes(), row)
        if len(found) >= n_candidates:
            return np.stack(list(found.values())[:n_candidates])
    raise InputError(f"{len(found)} candidates were found that meet the constraints (wanted: {n_candidates})")
