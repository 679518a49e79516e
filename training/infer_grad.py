"""InferGrad (Chen et al., 2022): the objective includes the waveform that a few denoising steps generate.

The diffusion loss alone measures the prediction at single noise levels. This loss measures the waveform at the end of the same steps
that inference takes, and the gradient goes through all of them.
"""

import numpy as np
import torch

from common.errors import InputError
from model import shallow
from model.gla_grad import GlaGrad
from model.noise_schedule import NoiseSchedule, random_along
from model.sampler import find_sampler, sampler_name
from model.shallow import GriffinLimEstimate
from training.pmsqe import PMSQE
from training.spectral_distance import SpectralDistance


class InferGradLoss:
    """Distance of generated waveforms from their recordings. It compares spectra, because the mel does not give the phase.

    Args:
        config: a `model.config.InferGradConfig`.
        folder: folder that its noise schedules are relative to.
        segment_samples: length of the training segments.
        mel_config: the `MelConfig` of the mels.
        seed: of the noises and of the random schedules.
        device: where the waveforms are.

    Raises:
        OSError, InputError: a schedule cannot be used, there is no such sampler, the mel is not for GLA-Grad or an estimate, or the
            segments are too short.
    """

    def __init__(self, config, folder, segment_samples, mel_config, seed, device):
        sample_rate = mel_config.sample_rate
        self.pmsqe = PMSQE(sample_rate).to(device) if config.pmsqe_weight else None
        shortest = max(SpectralDistance.longest_reflection, self.pmsqe.n_fft if self.pmsqe else 0) + 1
        if config.adversarial:
            shortest = max(shortest, config.adversarial.shortest_waveform)
        if segment_samples < shortest:
            raise InputError(
                f"data.segment_frames makes segments of {segment_samples} samples (wanted by training.infer_grad: {shortest} or more)"
            )
        paths = [config.noise_schedule] if isinstance(config.noise_schedule, str) else config.noise_schedule
        self.schedules = [NoiseSchedule.load(folder / path) for path in paths]
        self.schedule_contents = {path: schedule.content for path, schedule in zip(paths, self.schedules)}
        self.config = config
        for schedule in self.schedules:
            GriffinLimEstimate(mel_config).check(schedule)
        for name in filter(None, [config.many_steps_sampler, *(sampler_name(schedule, config.sampler) for schedule in self.schedules)]):
            find_sampler(name, streamable=True)
        self.seed = seed
        self.gla_grad = GlaGrad(mel_config, config.gla_grad).to(device) if config.gla_grad else None
        self.spectral_distance = SpectralDistance(sample_rate).to(device)

    def schedule_at(self, training_step):
        """The schedule of an optimiser step, the same on all processes."""
        rng = np.random.default_rng((self.seed, training_step))
        is_random = rng.random() < self.config.random_share
        schedule = self.schedules[rng.integers(len(self.schedules))]
        if not is_random or len(schedule) == 1:
            return schedule
        return random_along(schedule, int(rng.integers(*self.config.random_steps, endpoint=True)), rng)

    @property
    def longest_schedule(self):
        """The schedule of the most steps that `schedule_at` may give: what takes the most memory."""
        schedules, most = list(self.schedules), self.config.random_steps[1]
        if self.config.random_share > 0:
            schedules += [random_along(schedule, most, np.random.default_rng(0)) for schedule in schedules if len(schedule) > 1]
        return max(schedules, key=len)

    def noises(self, numbers, n_steps, n_samples):
        """Standard normal noises of the denoising steps of examples, `[B, n_steps, n_samples]`, on the CPU.

        Those of an example depend on its number alone, whatever process and portion of a batch it is in.

        Args:
            numbers: which examples, `[B]`.
        """
        noises, generator = torch.empty(len(numbers), n_steps, n_samples), torch.Generator()
        for of_example, number in zip(noises, numbers.tolist()):
            # The spawn key keeps this apart from what `training.examples` draws.
            seed = np.random.SeedSequence((self.seed, number), spawn_key=(1,)).generate_state(1, np.uint64)[0]
            of_example.normal_(generator=generator.manual_seed(int(seed)))
        return noises

    def sampler_of(self, schedule):
        """The `model.sampler.Sampler` of a schedule."""
        name = sampler_name(schedule, self.config.sampler)
        if len(schedule) >= self.config.many_steps:
            name = self.config.many_steps_sampler or name
        return find_sampler(name, streamable=True)

    def generate(self, schedule, network, mel, noises, std):
        """Generates whitened waveforms as inference does, from noise or an estimate, with gradients.

        Args:
            schedule: the `NoiseSchedule` to do it with.
            network: called as `network(y_n, mel, noise_level)`; see `model.shallow` for its attribute `estimate`.
            mel: log-mel spectrogram, `[B, n_mels, frames]`.
            noises: standard normal, `[B, N, T]` for a schedule of N steps.
            std: of the prior.

        Returns:
            waveform, `[B, T]`.
        """
        noises = iter(noises.unbind(1))
        y = shallow.start(getattr(network, "module", network), mel, schedule, next(noises), std)
        return self.sampler_of(schedule).reverse_process(network, mel, schedule, y, noises, 1 / std)

    def results(self, generated, mel):
        """What counts of generated waveforms `[B, T]`: they as they are and, with `gla_grad`, they corrected, a list of `[B, T]`."""
        return [generated] if self.gla_grad is None else [generated, self.gla_grad(generated, mel)]

    def __call__(self, y_0, results):
        """Recordings `[B, T]` and `results` -> losses `[B]`, the mean over the results."""
        return sum(self._distance(y_0, result) for result in results) / len(results)

    def _distance(self, y_0, generated):
        distance = self.spectral_distance(y_0, generated)
        if self.pmsqe:
            distance = distance + self.config.pmsqe_weight * self.pmsqe(y_0, generated)
        return distance
