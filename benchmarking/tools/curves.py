"""Noise schedules as points of a box: the final noise level, the first, and how the steps are spaced between them.

The coordinates are those of the log-SNR, ln(alpha_bar / (1 - alpha_bar)). Every point is a valid schedule, whose noise level falls from
step to step.
"""

import math

import numpy as np

from model.noise_schedule import NoiseSchedule, from_log_snr, interpolate

FIRST_LOG_SNR = (2.0, 14.0)  # beta_1 from 0.12 down to 8e-7
FINAL_NOISE_LEVEL = (0.05, 0.98)  # from beneath that of the training schedule (0.08) to above all known schedules (0.964)
LONGEST_GAP = math.log(8)  # a step may be 8 times as long as the first, or an eighth, in log-SNR


def _log_snr(noise_level):
    return math.log(noise_level**2) - math.log1p(-(noise_level**2))


class ScheduleCurves:
    """The box `[0, 1]^n_dimensions` of schedules of `n_steps` steps.

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
