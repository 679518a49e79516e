"""The forward process and the training objective (WaveGrad, section 2, algorithm 1)."""

import torch


def sample_noise_level(schedule, batch, generator=None):
    """Draws noise levels: a step s uniform in 1..S, then a level uniform between l_{s-1} and l_s, where l_0 = 1.

    Args:
        schedule: the `NoiseSchedule` of the training, of S steps.
        batch: number of levels.
        generator: a `torch.Generator` on the CPU.

    Returns:
        noise levels sqrt(alpha_bar), `[batch]`, float32, on the CPU.
    """
    levels = schedule.level_bounds
    # s ~ Uniform({1, ..., S}), sqrt(alpha_bar) ~ Uniform(l_{s-1}, l_s) (algorithm 1, lines 3 and 4)
    step = torch.randint(1, len(schedule) + 1, (batch,), generator=generator)
    position = torch.rand(batch, generator=generator, dtype=torch.float64)
    return torch.lerp(levels[step - 1], levels[step], position).float()


def add_noise(y_0, noise, noise_level):
    """y_n = sqrt(abar) y_0 + sqrt(1 - abar) epsilon (equation 8).

    Args:
        y_0: clean waveform, `[B, T]`.
        noise: standard normal, `[B, T]`.
        noise_level: sqrt(alpha_bar), `[B]`.

    Returns:
        noisy waveform, `[B, T]`.
    """
    noise_level = noise_level[:, None].float()
    return noise_level * y_0 + (1 - noise_level**2).sqrt() * noise


def diffusion_loss(network, y_0, mel, noise_level, noise):
    """L1 distance between the noise and the network's prediction of it (algorithm 1, line 6).

    Args:
        network: called as `network(y_n, mel, noise_level)`.
        y_0: clean waveform, whitened, `[B, T]`.
        mel: its log-mel spectrogram, `[B, n_mels, frames]`.
        noise_level: sqrt(alpha_bar), `[B]`.
        noise: standard normal, `[B, T]`.

    Returns:
        the loss of each sample, `[B]`; its mean is the objective.
    """
    # || epsilon - epsilon_theta(sqrt(abar) y_0 + sqrt(1 - abar) epsilon, x, sqrt(abar)) ||_1
    predicted_noise = network(add_noise(y_0, noise, noise_level), mel, noise_level)
    return (noise - predicted_noise).abs().mean(dim=-1)
