"""The systems that are compared: the recording itself, Griffin-Lim, and the network with a schedule and a sampler."""

import hashlib
import re
from dataclasses import dataclass
from typing import Optional

from model.errors import InputError
from model.noise_schedule import NoiseSchedule
from model.sampler import find_sampler, sampler_of

RECORDING, GRIFFIN_LIM = "recording", "griffin-lim"


@dataclass(frozen=True)
class System:
    """Args:
        name: what tables call it.
        schedule, sampler: how the network is used; None for a system without it.
    """

    name: str
    schedule: Optional[NoiseSchedule] = None
    sampler: Optional[str] = None

    @property
    def key(self):
        """What the system's results depend on, as text: the betas themselves, not their name."""
        if self.schedule is None:
            return self.name
        return f"{hashlib.sha256(self.schedule.betas.tobytes()).hexdigest()[:16]} {self.sampler}"

    @property
    def file_stem(self):
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)


def make_systems(schedules, samplers):
    """The systems of a command line.

    Args:
        schedules: paths; `PATH@SAMPLER` goes with that sampler alone, any other with each of `samplers`, where None is
            the one that the schedule was made for.

    Raises:
        OSError, InputError: a schedule cannot be read, a sampler is unknown, or two systems have the same name.
    """
    systems = [System(RECORDING), System(GRIFFIN_LIM)]
    for text in schedules:
        path, separator, own_sampler = text.rpartition("@")
        schedule = NoiseSchedule.load(path if separator else text)
        for sampler in [own_sampler] if separator else samplers:
            sampler = sampler_of(schedule, sampler)
            find_sampler(sampler)
            systems.append(System(f"{schedule.name} {sampler}", schedule, sampler))
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"'{name}' is asked for twice (wanted: schedules of different names)")
    return systems
