"""The reverse process: from noise to a waveform, given a network, mels and a noise schedule."""

import math

import torch


def gaussian_noises(shape, generator=None, device=None):
    """An endless stream of standard normal tensors, drawn on the generator's device and moved to `device`."""
    source = generator.device if generator is not None else device
    while True:
        yield torch.randn(shape, generator=generator, device=source).to(device)


def predict_y_0(network, y, mel, schedule, n):
    """The clean waveform that the network sees in `y` at step index `n`, kept within [-1, 1], as a waveform is."""
    noise_level = torch.full((len(y),), schedule.noise_levels[n], dtype=torch.float64, device=mel.device)
    alpha_cumprod = schedule.alphas_cumprod[n]
    predicted_noise = network(y, mel, noise_level)
    y_0 = (y - math.sqrt(1 - alpha_cumprod) * predicted_noise) / math.sqrt(alpha_cumprod)
    return y_0.clamp(-1, 1)


def ancestral_step(schedule, n, y, y_0, previous_y_0, noise):
    """y_{n-1} drawn from q(y_{n-1} | y_n, y_0) (Ho et al., 2020, equation 7); `previous_y_0` is for other samplers."""
    alpha_cumprod = schedule.alphas_cumprod[n]
    previous_cumprod = schedule.alphas_cumprod[n - 1] if n > 0 else 1.0
    y_0_weight = math.sqrt(previous_cumprod) * schedule.betas[n] / (1 - alpha_cumprod)
    y_n_weight = math.sqrt(schedule.alphas[n]) * (1 - previous_cumprod) / (1 - alpha_cumprod)
    variance = (1 - previous_cumprod) / (1 - alpha_cumprod) * schedule.betas[n]
    y = y_0_weight * y_0 + y_n_weight * y
    return y + math.sqrt(variance) * noise if n > 0 else y


@torch.inference_mode()
def ancestral_sample(network, mel, schedule, generator=None, noises=None, callback=None):
    """Ancestral sampling (WaveGrad, algorithm 2): y_{n-1} is drawn from q(y_{n-1} | y_n, y_0) at the predicted y_0.

    The prediction of y_0 is kept within [-1, 1], as a waveform is; without that, this is line 4 and 5 of the algorithm.

    Args:
        network: called as `network(y_n, mel, noise_level)`, with an attribute `hop_length`.
        mel: log-mel spectrogram, `[B, n_mels, frames]`.
        schedule: a `NoiseSchedule`.
        generator: source of the noise.
        noises: the noise itself instead, an iterable of `[B, frames * hop_length]`: the start, then one per step but the
            last.
        callback: called as `callback(n, y)` with every state, from the start (n = N, pure noise) to the result (n = 0).

    Returns:
        waveform, `[B, frames * hop_length]`, within [-1, 1].
    """
    batch, _, frames = mel.shape
    if noises is None:
        noises = gaussian_noises((batch, frames * network.hop_length), generator, mel.device)
    noises = iter(noises)

    y = next(noises)
    for n in reversed(range(len(schedule))):
        if callback is not None:
            callback(n + 1, y)
        y_0 = predict_y_0(network, y, mel, schedule, n)
        y = ancestral_step(schedule, n, y, y_0, None, next(noises) if n > 0 else None)
    if callback is not None:
        callback(0, y)
    return y
