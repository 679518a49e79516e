"""Networks whose answer is known, and the textbook forms of what runs faster."""

import copy

import torch
import torch.nn.functional as F

from extensions.griffin_lim.spectrum import LEAST_GAIN, MOST_GAIN, TINY
from extensions.streaming import FrameNoise
from model import layers
from model.network import WaveGrad

HOP_LENGTH = 5


class Oracle:
    """Returns the true noise of a given clean waveform."""

    hop_length = HOP_LENGTH

    def __init__(self, y_0):
        self.y_0, self.n_calls = y_0, 0

    def __call__(self, y_n, mel, noise_level):
        self.n_calls += 1
        level = noise_level[:, None]
        return ((y_n - level * self.y_0) / (1 - level**2).sqrt()).float()


class GaussianDenoiser:
    """The best network for waveforms of independent normal samples of standard deviation `scale`, in float64.

    The ODE of the reverse process then has a solution in closed form, `exact`.
    """

    hop_length = HOP_LENGTH

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, y_n, mel, noise_level):
        level = noise_level[:, None]
        return (1 - level**2).sqrt() * y_n / (level**2 * self.scale**2 + 1 - level**2)

    def exact(self, start, noise_level):
        """Where the ODE leads `start` at `noise_level` when all noise is gone."""
        return start * self.scale / (noise_level**2 * self.scale**2 + 1 - noise_level**2) ** 0.5


def waveforms(batch=2, frames=20, seed=0):
    """Uniform `[batch, frames * HOP_LENGTH]` in [-0.9, 0.9], and an empty mel of as many frames."""
    generator = torch.Generator().manual_seed(seed)
    y_0 = torch.rand(batch, frames * HOP_LENGTH, generator=generator) * 1.8 - 0.9
    return y_0, torch.zeros(batch, 3, frames)


def whole_noises(seed, n_steps, n_frames, hop_length):
    """The noises that a stream of `n_frames` frames uses, for sampling it as a whole: yields `[1, n_frames * hop_length]`."""
    for n in range(n_steps, 0, -1):
        yield FrameNoise(seed, n, hop_length).draw(n_frames)[None]


def textbook(network, config):
    """The network of a `Config` built of `model.layers`, with the weights of `network`."""
    weights = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in network.state_dict().items()}
    weights = {name: tensor.squeeze(2) if tensor.ndim == 4 else tensor for name, tensor in weights.items()}  # [out, in, 1, taps]
    result = WaveGrad(config.network, config.mel.n_mels, layers)
    result.load_state_dict(weights, assign=True)
    return result.train(network.training)


def frame_by_frame(spectrum, noise, mel, n_iter, look_ahead):
    """`RealTimeGriffinLim` as its page says it, of one waveform in float64: noise `[1, F * hop_length]`, mel `[1, n_mels, F]`."""
    config, spectrum = spectrum.config, copy.deepcopy(spectrum).double()
    n_fft, hop, targets = config.n_fft, config.hop_length, spectrum.target(mel)[0].double()
    smooth, margin = spectrum.smooth_magnitude(targets[None])[0], (n_fft - config.win_length) // 2
    window = F.pad(spectrum.window, (margin, n_fft - config.win_length - margin))
    noise = F.pad(noise[0].double(), (n_fft - hop, 0))

    def waveform(frames, n):
        """Sum of w f_k / sum of w^2, of `n` frames of which the last may not be there yet."""
        total, squares = torch.zeros(2, (n - 1) * hop + n_fft, dtype=torch.float64)
        for k in range(n):
            squares[k * hop : k * hop + n_fft] += window**2
        for k, frame in enumerate(frames):
            total[k * hop : k * hop + n_fft] += window * frame
        return total / squares.clamp(min=0.4)

    def scaled(spectra, k):
        """The spectrum of frame k, scaled once towards its mel; lines of no band get its smooth magnitude."""
        magnitude = spectra.abs()
        of_band = targets[:, k] / (spectrum.filters @ magnitude**config.power).clamp(min=TINY)
        gain = (spectrum.filters.T @ of_band / spectrum.widths[:, 0]).clamp(LEAST_GAIN, MOST_GAIN) ** (1 / config.power)
        return spectra * torch.where(spectrum.widths[:, 0] > TINY, gain, smooth[:, k] / magnitude.clamp(min=TINY))

    frames = []
    for k in range(mel.shape[2]):
        fresh = torch.fft.rfft(noise[k * hop : k * hop + n_fft] * window)
        so_far = torch.fft.rfft(waveform(frames, k + 1)[k * hop :] * window)
        frames.append(torch.fft.irfft(scaled(so_far + fresh * 0.01 * smooth[:, k] / fresh.abs(), k), n_fft))
        before = {}
        for _ in range(n_iter):
            y = waveform(frames, k + 1)
            for i in range(max(k - look_ahead, 0), k + 1):
                consistent = torch.fft.rfft(y[i * hop : i * hop + n_fft] * window)
                frames[i] = torch.fft.irfft(scaled(consistent + 0.99 * (consistent - before.get(i, consistent)), i), n_fft)
                before[i] = consistent
    return waveform(frames, len(frames))[None, spectrum.margins[0] :][:, : mel.shape[2] * hop].float()
