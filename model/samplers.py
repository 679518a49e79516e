"""Other updates of y_n for algorithm 2, and the names of all. A new one is a function like `ancestral`, and a line in `SAMPLERS`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Optional

import numpy as np
from torch import Tensor

from common.errors import InputError
from model.diffusion import Step, ancestral, predicted_noise
from model.noise_schedule import NoiseSchedule


@np.errstate(divide="ignore", invalid="ignore")  # as in `ancestral`
def ddim(schedule: NoiseSchedule, n: int, y_n: Tensor, y_0: Tensor, last_y_0, draw: Callable, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al., 2021). eta is the noise as a share of ancestral sampling's: 0 solves the ODE, 1 is ancestral sampling."""
    abar_n, abar_next = schedule.abar(n), schedule.abar(n - 1)
    # sigma_n = eta sqrt((1 - abar_{n-1}) / (1 - abar_n) beta_n) (equation 16)
    variance = eta**2 * (1 - abar_next) / (1 - abar_n) * schedule.beta(n)
    # y_{n-1} = sqrt(abar_{n-1}) y_0 + sqrt(1 - abar_{n-1} - sigma_n^2) epsilon + sigma_n z (equation 12)
    y = math.sqrt(abar_next) * y_0 + math.sqrt(max(1 - abar_next - variance, 0.0)) * predicted_noise(schedule, n, y_n, y_0)
    return y + math.sqrt(variance) * draw() if variance > 0 else y


def dpm_solver(
    schedule: NoiseSchedule, n: int, y_n: Tensor, y_0: Tensor, last_y_0: Optional[Tensor], draw: Callable, eta: float = 0.0
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): DDIM with y_0 extrapolated, linearly in the log-SNR, to the middle of the step."""
    if last_y_0 is not None and n > 1:
        ratio = (schedule.log_snr[n - 2] - schedule.log_snr[n - 1]) / (schedule.log_snr[n - 1] - schedule.log_snr[n])
        y_0 = y_0 + float(ratio) / 2 * (y_0 - last_y_0)
    return ddim(schedule, n, y_n, y_0, last_y_0, draw, eta)


SAMPLERS = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm-solver": dpm_solver,
    "sde-dpm-solver": partial(dpm_solver, eta=1.0),
}
WITH_ETA = ("ddim", "dpm-solver")  # `ddim:0.5` is `ddim` with that eta
DEFAULT_SAMPLER = "ancestral"  # the paper's, for schedules that name none


def sampler_name(schedule: Optional[NoiseSchedule], name: Optional[str] = None) -> str:
    """The name of the sampler to use: `name`, else that of the schedule, else `DEFAULT_SAMPLER`."""
    return name or (schedule and schedule.sampler) or DEFAULT_SAMPLER


def find_sampler(name: str) -> Step:
    """The sampler of a name in `SAMPLERS`; `ddim:0.5` and `dpm-solver:0.5` are those with that eta.

    Raises:
        InputError: there is no such sampler, or eta is not within 0 and 1.
    """
    base, separator, text = name.partition(":")
    if base not in SAMPLERS or (separator and base not in WITH_ETA):
        raise InputError(f"sampler '{name}': expected one of {', '.join(SAMPLERS)}, or {' or '.join(f'{one}:ETA' for one in WITH_ETA)}")
    if not separator:
        return SAMPLERS[base]
    try:
        eta = float(text)
    except ValueError:
        eta = -1.0
    if not 0 <= eta <= 1:
        raise InputError(f"sampler '{name}': expected an eta from 0 to 1, got '{text}'")
    return partial(SAMPLERS[base], eta=eta)
