"""The systems that are compared: the recording itself, Griffin-Lim, and the network with a schedule and a sampler.

If results are corrected by GLA-Grad, noise with the same correction is a system too. It shows the effect of the correction alone. If a
schedule starts from an estimate (`model.shallow`), so is the estimate with the same corrections. It shows what the network adds.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Optional

from common.errors import InputError
from model.noise_schedule import SUFFIXES, NoiseSchedule
from model.sampler import find_sampler, sampler_name
from model.schedule_text import find_schedule

RECORDING, NOISE, ESTIMATE = "recording", "noise", "estimate"


@dataclass(frozen=True)
class System:
    """Something that makes waveforms: a network with a schedule and a sampler, or a reference without a network.

    Args:
        name: what tables call it.
        schedule, sampler: how the network is used; None for a system without it.
        gla_grad: iterations of GLA-Grad's correction of the result.
        griffin_lim: iterations of Griffin-Lim; 0 for any other system.
        estimate: a schedule whose estimate it is, without the network; None for any other system.
    """

    name: str
    schedule: Optional[NoiseSchedule] = None
    sampler: Optional[str] = None
    gla_grad: int = 0
    griffin_lim: int = 0
    estimate: Optional[NoiseSchedule] = None

    @property
    def method(self):
        """Sampler and correction, which may be one or none."""
        correction = f"gla-grad-{self.gla_grad}" if self.gla_grad else None
        return " ".join(filter(None, [self.sampler, correction])) or None

    @property
    def title(self):
        """What a page for listeners calls the system, without the names of its files."""
        if self.griffin_lim:
            return f"Griffin-Lim, {_count(self.griffin_lim, 'iteration')}"
        if self.estimate is not None:
            name = "the start alone"
        else:
            name = self.name.split()[0] if self.schedule is None else f"WaveGrad, {_count(len(self.schedule), 'step')}"
        return name + (f", GLA-Grad {self.gla_grad}" if self.gla_grad else "")

    @property
    def key(self):
        """What the system's results depend on, as text: the betas themselves, not their name."""
        if self.estimate is not None:
            return f"{_estimate_name(self.estimate)} {self.method}"
        if self.schedule is None:
            return self.name
        start = "" if self.schedule.griffin_lim is None else f" {_estimate_name(self.schedule)}"
        return f"{hashlib.sha256(self.schedule.betas.tobytes()).hexdigest()[:16]}{start} {self.method}"

    @property
    def sampling(self):
        """What the results depend on before the correction, as text: systems that share it need one sampling."""
        return replace(self, gla_grad=0).key

    @property
    def file_stem(self):
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)


def _estimate_name(schedule):
    """What tables call the estimate that a schedule starts from: iterations, and frames of look-ahead if it has any."""
    return "-".join(str(part) for part in (ESTIMATE, schedule.griffin_lim, schedule.look_ahead) if part is not None)


def _count(n, noun):
    return f"{n} {noun}{'s' * (n != 1)}"


def titles(systems):
    """The titles of systems, with their names in brackets where two would have the same."""
    counts = Counter(system.title for system in systems)
    return [system.title if counts[system.title] == 1 else f"{system.title} ({system.name})" for system in systems]


def _named_by_method(system):
    return replace(system, name=" ".join(filter(None, [system.name, system.method])))


def split_sampler(text):
    """`SCHEDULE@SAMPLER` as schedule and sampler; the sampler is None where the only @ is in a path."""
    schedule, separator, sampler = text.rpartition("@")
    if not separator or any(part in sampler.lower() for part in ("/", *SUFFIXES)):
        return text, None
    return schedule, sampler


def make_systems(schedules, samplers, gla_grads=(0,), griffin_lim=32):
    """The systems of a command line.

    Args:
        schedules: texts of `find_schedule`; `SCHEDULE@SAMPLER` goes with that sampler alone, any other with each of `samplers`,
            where None is the one that the schedule was made for.
        gla_grads: iterations of GLA-Grad's correction; each schedule and sampler goes with each.
        griffin_lim: iterations of Griffin-Lim; 0 leaves it out.

    Raises:
        OSError, InputError: a schedule cannot be read, a sampler is unknown, iterations are below 0, or two
            systems have the same name.
    """
    if min(gla_grads) < 0:
        raise InputError(f"--gla_grad is {min(gla_grads)} (wanted: 0 or more)")
    systems = [System(RECORDING)]
    if griffin_lim:
        systems.append(System(f"griffin-lim-{griffin_lim}", griffin_lim=griffin_lim))
    systems += [_named_by_method(System(NOISE, gla_grad=n_iter)) for n_iter in gla_grads if n_iter]
    found = {text: find_schedule(split_sampler(text)[0]) for text in schedules}
    estimates = {_estimate_name(schedule): schedule for schedule in found.values() if schedule.griffin_lim is not None}
    for name, schedule in sorted(estimates.items()):
        systems += [_named_by_method(System(name, gla_grad=n_iter, estimate=schedule)) for n_iter in gla_grads]
    for text in schedules:
        own_sampler, schedule = split_sampler(text)[1], found[text]
        for sampler in [own_sampler] if own_sampler is not None else samplers:
            sampler = sampler_name(schedule, sampler)
            find_sampler(sampler)
            systems += [_named_by_method(System(schedule.name, schedule, sampler, n_iter)) for n_iter in gla_grads]
    by_stem = {}  # the audio of both would go to one file
    for system in systems:
        if by_stem.setdefault(system.file_stem, system) is not system:
            raise InputError(f"'{system.name}' is asked for twice (wanted: schedules of different names)")
    return systems
