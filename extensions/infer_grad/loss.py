"""InferGrad (Chen et al., 2022), off by default: the objective includes the waveform that a few denoising steps generate.

The diffusion loss alone measures the prediction at single noise levels. This loss measures the waveform at the end of the same steps
that inference takes, and the gradient goes through all of them.
"""

import functools

import numpy as np
import torch

from common.errors import InputError
from extensions.griffin_lim.spectrum import MelSpectrum
from extensions.infer_grad.pmsqe import PMSQE
from extensions.infer_grad.spectral_distance import SpectralDistance
from extensions.registry import make_pipeline
from model.noise_schedule import NoiseSchedule, random_along
from model.samplers import sampler_name


class InferGradLoss:
    """Distance of generated waveforms from their recordings. It compares spectra, because the mel does not give the phase.

    Args:
        config: a `model.config.InferGradConfig`.
        folder: folder that its noise schedules are relative to.
        segment_samples: length of the training segments.
        model_config: the whole `Config`.
        seed: of the noises and of the random schedules.
        device: where the waveforms are.

    Raises:
        OSError, InputError: a schedule cannot be used, there is no such sampler, the mel is not for GLA-Grad or an estimate, or the
            segments are too short.
    """

    def __init__(self, config, folder, segment_samples, model_config, seed, device):
        sample_rate = model_config.mel.sample_rate
        self.pmsqe = PMSQE(sample_rate).to(device) if config.pmsqe_weight else None
        shortest = max(SpectralDistance.longest_reflection, self.pmsqe.n_fft if self.pmsqe else 0) + 1
        if config.adversarial:
            shortest = max(shortest, config.adversarial.shortest_waveform)
        if segment_samples < shortest:
            raise InputError(
                f"data.segment_frames: expected segments of {shortest} samples or more for training.infer_grad, got {segment_samples}"
            )
        paths = [config.noise_schedule] if isinstance(config.noise_schedule, str) else config.noise_schedule
        self.schedules = [NoiseSchedule.load(folder / path) for path in paths]
        self.config, self.model_config, self.device = config, model_config, device
        self._spectrum = functools.cache(MelSpectrum)  # the same for all schedules
        for schedule in self.schedules:  # what cannot be used is said now
            self.pipeline(None, schedule)
            self.pipeline(None, schedule, config.many_steps_sampler)
        self.seed = seed
        self.spectral_distance = SpectralDistance(sample_rate).to(device)

    def schedule_at(self, training_step):
        """The schedule of an optimiser step, the same on all processes."""
        rng = np.random.default_rng((self.seed, training_step))
        is_random = rng.random() < self.config.random_share
        schedule = self.schedules[rng.integers(len(self.schedules))]
        if not is_random or len(schedule) == 1:
            return schedule
        return random_along(schedule, int(rng.integers(*self.config.random_steps, endpoint=True)), rng)

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

    def pipeline(self, network, schedule, sampler=None):
        """The `Pipeline` of a network and a schedule, with the sampler that the configuration says."""
        if sampler is None and len(schedule) >= self.config.many_steps:
            sampler = self.config.many_steps_sampler
        sampler = sampler or sampler_name(schedule, self.config.sampler)
        return make_pipeline(network, self.model_config, schedule, sampler, self.config.gla_grad, self._spectrum).to(self.device)

    def results(self, network, schedule, mel, noises):
        """What counts of the waveforms that inference generates, with gradients: they as they are and, with `gla_grad`, corrected.

        Args:
            network: called as `network(y_n, mel, noise_level)`.
            mel: log-mel spectrogram, `[B, n_mels, frames]`.
            noises: standard normal, `[B, N, T]` for a schedule of N steps.

        Returns:
            list of `[B, T]`.
        """
        return list(self.pipeline(network, schedule).results(mel, noises.unbind(1)))

    def __call__(self, y_0, results):
        """Recordings `[B, T]` and `results` -> losses `[B]`, the mean over the results."""
        return sum(self._distance(y_0, result) for result in results) / len(results)

    def _distance(self, y_0, generated):
        distance = self.spectral_distance(y_0, generated)
        if self.pmsqe:
            distance = distance + self.config.pmsqe_weight * self.pmsqe(y_0, generated)
        return distance
