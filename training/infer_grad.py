"""InferGrad (Chen et al., 2022): the objective includes the waveform that a few denoising steps generate from noise.

The diffusion loss alone measures the prediction at single noise levels. This loss measures the waveform at the end of the same steps
that inference takes, and the gradient goes through all of them.
"""

import numpy as np
import torch

from common.errors import InputError
from model.noise_schedule import NoiseSchedule, random_along
from model.sampler import find_sampler, sampler_name
from training.pmsqe import PMSQE
from training.spectral_distance import SpectralDistance


class InferGradLoss:
    """Distance of generated waveforms from their recordings. It compares spectra, because the mel does not give the phase.

    Args:
        config: a `model.config.InferGradConfig`.
        folder: folder that its noise schedule is relative to.
        segment_samples: length of the training segments.
        sample_rate: in Hz.
        seed: of the noises and of the random schedules.
        device: where the waveforms are.

    Raises:
        OSError, InputError: the schedule cannot be used, there is no such sampler, or the segments are too short.
    """

    def __init__(self, config, folder, segment_samples, sample_rate, seed, device):
        self.pmsqe = PMSQE(sample_rate).to(device) if config.pmsqe_weight else None
        longest = max(SpectralDistance.longest_reflection, self.pmsqe.n_fft if self.pmsqe else 0)
        if segment_samples <= longest:
            raise InputError(
                f"data.segment_frames makes segments of {segment_samples} samples (wanted by training.infer_grad: more than {longest})"
            )
        self.schedule = NoiseSchedule.load(folder / config.noise_schedule)
        few_steps_sampler = sampler_name(self.schedule, config.sampler)
        self.few_steps = find_sampler(few_steps_sampler, streamable=True)
        self.many_steps = find_sampler(config.many_steps_sampler or few_steps_sampler, streamable=True)
        self.config = config
        self.seed = seed
        self.spectral_distance = SpectralDistance(sample_rate).to(device)

    def schedule_at(self, training_step):
        """The schedule of an optimiser step, the same on all processes."""
        rng = np.random.default_rng((self.seed, training_step))
        if rng.random() >= self.config.random_share:
            return self.schedule
        return random_along(self.schedule, int(rng.integers(*self.config.random_steps, endpoint=True)), rng)

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
        return self.many_steps if len(schedule) >= self.config.many_steps else self.few_steps

    def generate(self, schedule, network, mel, noises, limit):
        """Generates whitened waveforms from noise as inference does, with gradients.

        Args:
            schedule: the `NoiseSchedule` to do it with.
            network: called as `network(y_n, mel, noise_level)`.
            mel: log-mel spectrogram, `[B, n_mels, frames]`.
            noises: standard normal, `[B, N, T]` for a schedule of N steps.
            limit: largest magnitude of a whitened waveform; see `model.sampler.predict_y_0`.

        Returns:
            waveform, `[B, T]`.
        """
        return self.sampler_of(schedule).reverse_process(network, mel, schedule, iter(noises.unbind(1)), limit)

    def __call__(self, y_0, generated):
        """Recordings `[B, T]` and generated waveforms `[B, T]` -> losses `[B]`."""
        distance = self.spectral_distance(y_0, generated)
        if self.pmsqe:
            distance = distance + self.config.pmsqe_weight * self.pmsqe(y_0, generated)
        return distance
