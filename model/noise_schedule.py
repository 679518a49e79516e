"""Noise schedules: the betas of the diffusion, and everything that follows from them (WaveGrad, section 2)."""

import functools
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import numpy as np
import torch

from common.errors import InputError, naming, shortened, shown
from common.files import checked, read_json, reading, save_text

SUFFIXES = (".json", ".npy", ".pt")
JSON_KEYS = ("name", "source", "sampler", "many_steps_sampler", "griffin_lim", "look_ahead", "betas")
MANY_STEPS = 12  # from here on small-16k is better with its `many_steps_sampler`: docs/journal/README.md
MOST_STEPS = 1_000_000  # of a schedule from a text, `interpolate` or `repeat`
MOST_GRIFFIN_LIM = 1000  # iterations for the estimate of a schedule
MOST_LOOK_AHEAD = 100  # frames
FEW_STEPS = 100  # from here on constant betas may be small enough
MOST_SIGNAL_LEFT = 0.75  # a final noise level above this leaves most of the signal (0.56 of the power); two good steps have 0.72

FORMS = (
    "a .json, .npy or .pt file, linear:N:START:STOP, geometric:N:START:STOP, quadratic:N:START:STOP or fibonacci:N:START; "
    "after it :N for the same curve in N steps, or :xK for each beta K times"
)
_BASE = r".*\.(?:json|npy|pt)|(?:linear|geometric|quadratic)(?::[^:]*){3}|fibonacci(?::[^:]*){2}"
_TEXT = re.compile(f"({_BASE})(?::(x?)([0-9]{{1,7}}))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """An immutable noise schedule with its tables in float64.

    All tables are read-only arrays of N values. Index n - 1 holds the value of step n; step 1 is the nearest to the clean waveform.

    Args:
        betas: N variances, each inside (0, 1).
        name: what to call it.
        source: where the betas come from.
        sampler: name of the sampler that they were made for (see `model.samplers.sampler_name`), or None.
        many_steps_sampler: name of the sampler for schedules of `MANY_STEPS` or more that are derived from this one, or None.
        griffin_lim: iterations of Griffin-Lim for the estimate that sampling starts from (`extensions/griffin_lim`); None starts at noise.
        look_ahead: frames that such an estimate, made frame by frame, waits for; griffin_lim is 1 or more then. None makes it for all
            frames at once.

    Attributes:
        alphas: 1 - betas.
        alphas_cumprod: alpha_bar, the running product of alphas.
        noise_levels: sqrt(alpha_bar), what the network is told.
        log_snr: ln(alpha_bar / (1 - alpha_bar)), falling; solvers and searches take their steps in it.

    Raises:
        InputError: betas are empty, of a wrong shape, not finite or not inside (0, 1); or name, source or a sampler is no text; or
            griffin_lim is no number of iterations, or look_ahead none of frames, or there is no griffin_lim for it.
    """

    betas: np.ndarray
    name: str = "unnamed"
    source: str = ""
    sampler: Optional[str] = None
    many_steps_sampler: Optional[str] = None
    griffin_lim: Optional[int] = None
    look_ahead: Optional[int] = None

    def __post_init__(self):
        samplers = {"sampler": self.sampler or "", "many_steps_sampler": self.many_steps_sampler or ""}
        for key, value in ({"name": self.name, "source": self.source} | samplers).items():
            if not isinstance(value, str):
                raise InputError(f"{key} must be text, found {shortened(repr(value))}")
        for key, most in (("griffin_lim", MOST_GRIFFIN_LIM), ("look_ahead", MOST_LOOK_AHEAD)):
            if (value := getattr(self, key)) is not None:
                _check_whole(key, value, most, least=0)
                object.__setattr__(self, key, int(value))
        if self.look_ahead is not None and not self.griffin_lim:
            raise InputError(f"look_ahead is {self.look_ahead} and griffin_lim is {self.griffin_lim} (expected with look_ahead: 1 or more)")
        betas = _numbers(self.betas)
        if betas.ndim != 1:
            raise InputError(f"betas must be one list of numbers, found shape {list(betas.shape)}")
        if len(betas) == 0:
            raise InputError("betas must not be empty")
        for i, beta in enumerate(betas):
            if not 0 < beta < 1:  # NaN fails this too
                raise InputError(f"betas must be inside (0, 1), found {beta} at index {i}")
        alphas_cumprod = np.cumprod(1 - betas)
        with np.errstate(divide="ignore"):  # 1 - beta is 1 for a beta below 1e-16, and the log-SNR infinite
            log_snr = np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)
        tables = {
            "betas": betas,
            "alphas": 1 - betas,
            "alphas_cumprod": alphas_cumprod,
            "noise_levels": np.sqrt(alphas_cumprod),
            "log_snr": log_snr,
        }
        for key, table in tables.items():
            table.setflags(write=False)
            object.__setattr__(self, key, table)

    def __len__(self):
        return len(self.betas)

    def abar(self, n: int) -> float:
        """alpha_bar_n, 0 to N: the product of the alphas of steps 1 to n; 1 at n = 0."""
        return self.alphas_cumprod[n - 1] if n > 0 else 1.0

    @functools.cached_property
    def level_bounds(self) -> torch.Tensor:
        """l_0 to l_N of algorithm 1: l_0 = 1 and l_n = sqrt(alpha_bar_n), a tensor `[N + 1]` in float64."""
        return torch.from_numpy(np.concatenate([[1.0], self.noise_levels]))

    def beta(self, n: int) -> float:
        """beta_n, the variance of step n, 1 to N."""
        return self.betas[n - 1]

    @property
    def start(self) -> str:
        """What sampling starts from: "noise" or "estimate" (`extensions.griffin_lim.estimate`)."""
        return "noise" if self.griffin_lim is None else "estimate"

    @property
    def warning(self) -> Optional[str]:
        """One line if the betas are no way from noise to speech, else None."""
        final, n_steps = self.noise_levels[-1], len(self)
        # The first beta may be the largest where the first step leads far, as from one noise level to clean speech.
        if self.betas[min(1, n_steps - 2)] > self.betas[-1] and (n_steps > 2 or self.griffin_lim is None):
            return f"noise schedule {self.name}: betas that fall from the first to the last (expected: that of the least noise first)"
        if 1 < n_steps < FEW_STEPS and np.ptp(self.betas) < 1e-3 * self.betas[0]:
            return f"noise schedule {self.name}: {n_steps} equal betas, poor in so few steps (expected: rising ones)"
        if final <= MOST_SIGNAL_LEFT or self.griffin_lim is not None:
            return None
        return (
            f"noise schedule {self.name}: final noise level {final:.3f} leaves most of the signal in place, but sampling "
            f"starts from pure noise (expected: at most {MOST_SIGNAL_LEFT})"
        )

    @property
    def content(self) -> dict:
        """What a JSON file of the schedule holds: a dictionary with `JSON_KEYS`, without those that are None."""
        content = {key: getattr(self, key) for key in JSON_KEYS} | {"betas": self.betas.tolist()}
        return {key: value for key, value in content.items() if value is not None}

    def save(self, path):
        """Writes the schedule as JSON, atomically."""
        save_text(json.dumps(self.content, indent=2) + "\n", path)

    @classmethod
    def load(cls, path) -> "NoiseSchedule":
        """Reads a schedule from `.json` (an object with `JSON_KEYS`, or a list of betas), `.npy`, or `.pt` (a tensor or list of betas).

        Raises:
            OSError: the file cannot be read.
            InputError: the file is not a schedule; the message names the file.
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: a noise schedule is a .json, .npy or .pt file, found '{path.suffix}'")
        content = _read_json(path) if path.suffix.lower() == ".json" else {"betas": _read_betas(path)}
        with naming(path):
            return cls(**{"name": path.stem, **content})


def _numbers(values):
    """Betas from outside as an array of float64."""
    if torch.is_tensor(values) and values.layout == torch.strided and values.is_floating_point() and not values.is_meta:
        return values.detach().cpu().double().resolve_neg().numpy()
    try:
        betas = np.asarray(values)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError, RecursionError):
        betas = np.empty(1, dtype=object)
    has_booleans = isinstance(values, (list, tuple)) and any(isinstance(value, bool) for value in values)
    if (betas.dtype.kind not in "fiu" and betas.size) or has_booleans:  # kind O may be an integer beyond 64 bits
        raise InputError(f"betas must be a list of numbers, found {shown(values)}")
    return betas.astype(np.float64)


def _read_json(path):
    content = read_json(path, "a noise schedule")
    if isinstance(content, list):
        content = {"betas": content}
    if not isinstance(content, dict) or "betas" not in content:
        raise InputError(f"{path}: no key 'betas' (expected: {', '.join(JSON_KEYS)})")
    unknown = sorted(set(content) - set(JSON_KEYS))
    if unknown:
        raise InputError(f"{path}: unknown key '{shortened(unknown[0])}' (expected: {', '.join(JSON_KEYS)})")
    return content


def _read_betas(path):
    with reading(path, "a file of one array of numbers"), open(path, "rb") as file:
        if path.suffix.lower() == ".npy":
            return np.load(file, allow_pickle=False)
        return torch.load(checked(file), map_location="cpu", weights_only=True)


def linear(n_steps: int, start: float, stop: float) -> NoiseSchedule:
    """`n_steps` betas from `start` to `stop` at equal distances; WaveGrad is trained with linear(1000, 1e-6, 0.01)."""
    return _built(linear, np.linspace(start, stop, n_steps), start, stop)


def geometric(n_steps: int, start: float, stop: float) -> NoiseSchedule:
    """`n_steps` betas from `start` to `stop` at equal ratios."""
    return _built(geometric, np.geomspace(start, stop, n_steps), start, stop)


def quadratic(n_steps: int, start: float, stop: float) -> NoiseSchedule:
    """`n_steps` betas whose square roots are at equal distances."""
    return _built(quadratic, np.linspace(math.sqrt(start), math.sqrt(stop), n_steps) ** 2, start, stop)


def fibonacci(n_steps: int, start: float) -> NoiseSchedule:
    """`n_steps` betas, `start` times the Fibonacci numbers 1, 2, 3, 5, ... (Fibonacci(25) of WaveGrad starts at 1e-6)."""
    numbers = [1.0, 2.0]  # floats: the integers of a million steps would not fit into memory
    while len(numbers) < n_steps:
        numbers.append(numbers[-1] + numbers[-2])
    return _built(fibonacci, np.array(numbers[:n_steps]) * start, start)


def _built(builder, betas, *ends):
    """The `NoiseSchedule` of a builder's betas; its name and source are the builder and its arguments."""
    arguments = [str(len(betas)), *(f"{end:g}" for end in ends)]
    return NoiseSchedule(betas, "-".join([builder.__name__, *arguments]), f"{builder.__name__}({', '.join(arguments)})")


BUILDERS = {"linear": linear, "geometric": geometric, "quadratic": quadratic, "fibonacci": fibonacci}


def from_log_snr(log_snr, name: str = "unnamed", source: str = "") -> NoiseSchedule:
    """The schedule whose log-SNR is the given falling sequence.

    Raises:
        InputError: the sequence does not fall, or leaves a beta outside (0, 1).
    """
    log_snr = np.asarray(log_snr, dtype=np.float64)
    if not (np.diff(log_snr) < 0).all():
        raise InputError("a log-SNR must fall from step to step")
    from scipy.special import expit  # slow to import

    # 1 - alpha_bar by the logistic function itself: a difference from 1 would lose the digits of a beta near 1e-6.
    variances = np.concatenate([[0.0], expit(-log_snr)])
    return NoiseSchedule(np.diff(variances) / (1 - variances[:-1]), name, source)


def interpolate(schedule: NoiseSchedule, n_steps: int) -> NoiseSchedule:
    """The same curve of log-SNR in another number of steps, with the same ends (monotone cubic interpolation).

    Raises:
        InputError: n_steps is not within 1 and `MOST_STEPS`, one of the two schedules has a single step, which is no curve, or a beta
            is too small to have a log-SNR.
    """
    _check_whole("number of steps", n_steps, MOST_STEPS)
    if n_steps == len(schedule):
        return schedule
    return _along(schedule, np.linspace(0, 1, n_steps))


def repeat(schedule: NoiseSchedule, times: int) -> NoiseSchedule:
    """Each beta `times` times: the README of ivanvovk/WaveGrad makes 50 steps from 25 in this way.

    Raises:
        InputError: times is below 1, or makes more than `MOST_STEPS` steps.
    """
    _check_whole("number of repetitions", times, MOST_STEPS // len(schedule))
    if times == 1:
        return schedule
    source = f"each beta {times} times, from {schedule.name} ({schedule.source})"
    return _derived(schedule, np.repeat(schedule.betas, times), f"{schedule.name}-x{times}", source)


def random_along(schedule: NoiseSchedule, n_steps: int, rng: np.random.Generator) -> NoiseSchedule:
    """A schedule of `n_steps` at random places along a schedule's curve of log-SNR, with the same ends.

    The places are those of `interpolate`, each moved by up to a quarter of a step. So no step is more than three times as long as its
    neighbour.

    Args:
        rng: a `numpy.random.Generator`.

    Raises:
        InputError: one of the two schedules has a single step, which is no curve.
    """
    moves = rng.uniform(-0.25, 0.25, n_steps) / max(1, n_steps - 1)
    moves[[0, -1]] = 0
    return _along(schedule, np.linspace(0, 1, n_steps) + moves)


def _along(schedule, places):
    """The schedule at places along another's curve: 0 is the step nearest to the clean waveform, 1 the first step of sampling."""
    if min(len(places), len(schedule)) < 2:
        raise InputError(f"a schedule of {len(schedule)} steps has no curve to take {len(places)} from (expected: 2 or more)")
    if not np.isfinite(schedule.log_snr).all():
        raise InputError("a beta that vanishes beside 1 has no log-SNR to interpolate (expected: 1e-15 or more)")
    from scipy.interpolate import PchipInterpolator  # only here: it takes long to import

    curve = PchipInterpolator(np.linspace(0, 1, len(schedule)), schedule.log_snr)
    source = f"interpolated in log-SNR from {schedule.name} ({schedule.source})"
    return _derived(schedule, from_log_snr(curve(places)).betas, f"{schedule.name}-in-{len(places)}", source)


def _derived(schedule, betas, name, source):
    """The `NoiseSchedule` of betas derived from a schedule; its sampler is `many_steps_sampler` from `MANY_STEPS` on, if there is one."""
    sampler = schedule.many_steps_sampler if len(betas) >= MANY_STEPS else None
    return replace(schedule, betas=betas, name=name, source=source, sampler=sampler or schedule.sampler)


def _check_whole(what, number, most, least=1):
    if not (isinstance(number, (int, np.integer)) and not isinstance(number, bool) and least <= number <= most):
        raise InputError(f"{what} is {shortened(number)} (expected: a whole number, {least} to {most})")


def find_schedule(text, n_steps: Optional[int] = None, times: Optional[int] = None) -> NoiseSchedule:
    """The schedule of a text, which is what commands take.

    Args:
        text: as `FORMS` says. A text that ends in `.json`, `.npy` or `.pt` is a file, and its name may contain colons.
        n_steps, times: the same changes as numbers, see `interpolate` and `repeat`; None changes nothing.

    Raises:
        OSError: the file cannot be read.
        InputError: the text has none of the `FORMS`, or gives no schedule; the message begins with the text or the file.
    """
    base, x, number = split_text(text)
    schedule = NoiseSchedule.load(base) if base.lower().endswith(SUFFIXES) else _build(base)
    with naming(text):
        if number is not None:
            schedule = (repeat if x else interpolate)(schedule, int(number))
        if n_steps is not None:
            schedule = interpolate(schedule, n_steps)
        if times is not None:
            schedule = repeat(schedule, times)
    return schedule


def split_text(text):
    """The three parts of a text for `find_schedule`.

    Returns:
        the file or builder; "x" for a repetition, "" for a number of steps, None without a change; the number as text, or None.

    Raises:
        InputError: the text has none of the `FORMS`.
    """
    match = _TEXT.fullmatch(str(text))
    if not match:
        raise InputError(f"{text}: no noise schedule (expected: {FORMS})")
    return match.groups()


def _build(text):
    """The schedule of a builder and its arguments in a text."""
    name, *values = text.lower().split(":")
    try:
        n_steps, *ends = int(values[0]), *map(float, values[1:])
    except ValueError:
        n_steps, ends = 0, []
    if not (1 <= n_steps <= MOST_STEPS and all(0 < end < 1 for end in ends)):
        raise InputError(f"{text}: no noise schedule (expected: 1 to {MOST_STEPS} steps, and betas inside (0, 1))")
    with naming(text):
        return BUILDERS[name](n_steps, *ends)
