"""Griffin-Lim for frames that arrive one after the other, after RTISI-LA (Zhu, Beauregard and Wyse, 2007), towards a mel.

A new frame takes its phases from the waveform so far, which overlaps with most of it. Then a few iterations of Griffin-Lim make the newest
frames fit each other, and the oldest of these is done: it keeps what it is. So the phases of a voice go on from frame to frame. Griffin-Lim
that changes all frames at once begins with phases that fit nowhere, and needs many more iterations.

The waveform of frames f_k with the window w is that of least squares, sum of w f_k / sum of w^2 (Griffin and Lim, 1984). What differs
from RTISI-LA: magnitudes are those of the waveform so far, scaled towards a mel; a new frame has a little noise; iterations have momentum;
and the divisor has a lower limit at the end of the waveform, where RTISI-LA gives the newest frame a window of its own.

A rounding error grows from frame to frame until the phases are others. So each waveform is computed for itself, frame by frame, whatever
comes together with it: the result is the same to the last bit. Numba compiles the loop when it is first run, and keeps it on disk.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from numba import njit

from extensions.griffin_lim import spectrum
from model.mel import log_unit

# In the precision of the loop:
TINY, LEAST_GAIN, MOST_GAIN = map(np.float32, (spectrum.TINY, spectrum.LEAST_GAIN, spectrum.MOST_GAIN))
MOMENTUM = np.float32(0.99)  # of fast Griffin-Lim (Perraudin et al., 2013)
NEW = np.float32(0.01)  # share of noise in a new frame's magnitudes: what begins here has no phases in the waveform so far
LEAST_OVERLAP = np.float32(0.4)  # the sum of squared windows by which a waveform is divided, where its last frames are not there yet


def compiled(function):
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in can be written to
        return njit(**options)(function)


class Tables(NamedTuple):
    """What the loop needs of a `MelSpectrum`. A line of the spectrum lies in two bands that follow each other, or in one, or none."""

    window: np.ndarray
    bands: np.ndarray  # the first of the two bands of each line
    weights: np.ndarray  # of the line in these two, `[2, n_fft / 2 + 1]`
    widths: np.ndarray  # their sum; 0 where there is no band
    band_widths: np.ndarray  # sum of each band's filter
    covered: tuple  # the first line that a band covers, and the one after the last
    exponent: np.float32
    std: float  # the natural logarithm of a mel is std * feature + mean, at most `largest`
    mean: float
    largest: float
    unit: float


class State(NamedTuple):
    """A waveform between two frames; the last axes have n_fft samples, n_mels bands or n_fft / 2 + 1 lines."""

    frames: np.ndarray  # those that still change, and room for one more
    targets: np.ndarray  # their mels, not logarithmic
    smooth: np.ndarray  # their magnitudes as of `MelSpectrum.smooth_magnitude`
    before: np.ndarray  # sum of w f_k of the frames before them, where they overlap with these
    overlap: np.ndarray  # sum of w^2 of the frames before them
    noise: np.ndarray  # the last n_fft samples


@compiled
def _set_target(mel, target, smooth, tables):
    """`MelSpectrum.target` and `MelSpectrum.smooth_magnitude` of one frame; PyTorch's round differently for several frames at once."""
    loudness = np.zeros(len(target) + 1, np.float32)
    for band in range(len(mel)):
        target[band] = math.exp(min(tables.std * mel[band] + tables.mean, tables.largest)) * tables.unit
        if tables.band_widths[band] > 0:  # narrow bands may cover no line
            loudness[band] = target[band] / tables.band_widths[band]
    for line in range(len(smooth)):
        band = tables.bands[line]
        power = tables.weights[0, line] * loudness[band] + tables.weights[1, line] * loudness[band + 1]
        power /= max(tables.widths[line], TINY)
        if 0 < line < tables.covered[0]:  # outside the mel's range, the level of the outermost band
            power = loudness[0]
        if line >= tables.covered[1]:
            power = loudness[len(mel) - 1]
        smooth[line] = power if tables.exponent == 1 else power ** (1 / tables.exponent)


@compiled
def _copy(source, target):
    for i in range(len(source)):  # an assignment of slices takes seconds to compile
        target[i] = source[i]


@compiled
def _magnitude(value):
    return np.sqrt(value.real * value.real + value.imag * value.imag)


@compiled
def _scale(spectrum, target, smooth, tables):
    """Scales the spectrum of a frame once towards its mel, as `MelSpectrum` does."""
    magnitude, of_bands = np.empty_like(smooth), np.zeros(len(target) + 1, np.float32)
    for line in range(len(spectrum)):
        magnitude[line] = _magnitude(spectrum[line])
    for line in range(len(spectrum)):
        band, power = tables.bands[line], magnitude[line] if tables.exponent == 1 else magnitude[line] ** tables.exponent
        of_bands[band] += tables.weights[0, line] * power
        of_bands[band + 1] += tables.weights[1, line] * power
    for band in range(len(target)):
        of_bands[band] = target[band] / max(of_bands[band], TINY)
    for line in range(len(spectrum)):
        band = tables.bands[line]
        gain = (tables.weights[0, line] * of_bands[band] + tables.weights[1, line] * of_bands[band + 1]) / tables.widths[line]
        gain = LEAST_GAIN if gain < LEAST_GAIN else gain  # not `max`, which is slow for its care of NaN
        gain = MOST_GAIN if gain > MOST_GAIN else gain
        if tables.exponent != 1:
            gain **= 1 / tables.exponent
        spectrum[line] *= gain if tables.widths[line] > TINY else smooth[line] / max(magnitude[line], TINY)


@compiled
def _waveform(frames, hop_length, before, divisor, window):
    """The waveform from the first of some frames on: sum of w f_k / sum of w^2."""
    total = np.zeros_like(divisor)
    _copy(before, total)
    for k in range(len(frames)):
        for i in range(len(window)):
            total[k * hop_length + i] += frames[k, i] * window[i]
    for i in range(len(total)):
        total[i] /= divisor[i]
    return total


@compiled
def _add_frame(mel, noise, n, n_iter, state, tables):
    """Adds a frame to the `n` that still change, and iterates Griffin-Lim for these."""
    n_fft, hop_length, window = len(tables.window), len(noise), tables.window
    _set_target(mel, state.targets[n], state.smooth[n], tables)
    _copy(state.noise[hop_length:], state.noise)
    _copy(noise, state.noise[n_fft - hop_length :])
    divisor = np.zeros(n * hop_length + n_fft, np.float32)
    _copy(state.overlap, divisor)
    for k in range(n + 1):
        for i in range(n_fft):
            divisor[k * hop_length + i] += window[i] * window[i]
    for i in range(len(divisor)):
        divisor[i] = max(divisor[i], LEAST_OVERLAP)

    windows = np.empty((max(n + 1, 2), n_fft), np.float32)
    waveform = _waveform(state.frames[:n], hop_length, state.before, divisor, window)
    for i in range(n_fft):
        windows[0, i], windows[1, i] = waveform[n * hop_length + i] * window[i], state.noise[i] * window[i]
    spectrum, fresh = scipy.fft.rfft(windows[:2])
    for line in range(len(spectrum)):
        spectrum[line] += fresh[line] * (NEW * state.smooth[n, line] / max(_magnitude(fresh[line]), TINY))
    _scale(spectrum, state.targets[n], state.smooth[n], tables)
    _copy(scipy.fft.irfft(spectrum, n_fft), state.frames[n])

    windows, before = windows[: n + 1], np.zeros((n + 1, n_fft // 2 + 1), np.complex64)
    for iteration in range(n_iter):
        waveform = _waveform(state.frames[: n + 1], hop_length, state.before, divisor, window)
        for k in range(n + 1):
            for i in range(n_fft):
                windows[k, i] = waveform[k * hop_length + i] * window[i]
        consistent = scipy.fft.rfft(windows)
        momentum = MOMENTUM if iteration else np.float32(0)
        for k in range(n + 1):
            for line in range(n_fft // 2 + 1):
                value = consistent[k, line]
                consistent[k, line] += momentum * (value - before[k, line])
                before[k, line] = value
            _scale(consistent[k], state.targets[k], state.smooth[k], tables)
        frames = scipy.fft.irfft(consistent, n_fft)
        for k in range(n + 1):
            _copy(frames[k], state.frames[k])


@compiled
def _finish(n, hop_length, state, tables):
    """Ends the oldest of `n` frames; returns the samples that no later frame changes."""
    kept, window = len(state.before), tables.window
    done = np.empty(hop_length, np.float32)
    for i in range(len(window)):
        total, squares = state.frames[0, i] * window[i], window[i] * window[i]
        if i < kept:
            total, squares = total + state.before[i], squares + state.overlap[i]
        if i < hop_length:
            done[i] = total / max(squares, LEAST_OVERLAP)
        else:
            state.before[i - hop_length], state.overlap[i - hop_length] = total, squares
    for k in range(n - 1):
        _copy(state.frames[k + 1], state.frames[k])
        _copy(state.targets[k + 1], state.targets[k])
        _copy(state.smooth[k + 1], state.smooth[k])
    return done


class RealTimeGriffinLim:
    """The state between frames of a batch of waveforms; on the CPU.

    Args:
        mel_spectrum: a `extensions.griffin_lim.spectrum.MelSpectrum`.
        n_iter: iterations for each new frame, 1 or more.
        look_ahead: number of frames after a frame that change with it, 0 or more.
    """

    def __init__(self, mel_spectrum, n_iter, look_ahead):
        self.config, self.n_iter, self.look_ahead = mel_spectrum.config, n_iter, look_ahead
        self.tables, self.margin = make_tables(mel_spectrum), mel_spectrum.margins[0]
        self.states = None  # one a waveform
        self.n_changing = 0  # frames that still change
        self.n_waiting = 0  # frames whose waveform is not returned
        self.to_drop = self.margin  # samples of the first frames that are before the waveform
        self.rest = None  # samples that are done and not returned, `[B, less than hop_length]`

    @property
    def latency_frames(self):
        """Number of frames that must follow a frame before its waveform is complete."""
        return self.look_ahead + -(-self.margin // self.config.hop_length)

    def push(self, noise, mel, last):
        """Receives the next frames and returns the waveform that is complete with them.

        Args:
            noise: standard normal, for the phases of what begins in a frame, `[B, F * hop_length]`.
            mel: log-mel, `[B, n_mels, F]`.
            last: these are the last frames; the rest of the waveform is returned.

        Returns:
            `[B, T]`; T is a multiple of the hop length, as long as all frames before were.
        """
        noise, mels = (tensor.detach().float().cpu().numpy() for tensor in (noise, mel))
        if self.states is None:
            self.states = [self._new_state() for _ in noise]
            self.rest = torch.zeros(len(noise), 0)
        done = [self._frames_done(*one, last) for one in zip(self.states, noise, mels)]
        n_frames, hop_length = mel.shape[2], self.config.hop_length
        self.n_changing = 0 if last else min(self.n_changing + n_frames, self.look_ahead)
        self.n_waiting += n_frames
        waveform = torch.cat([self.rest, torch.from_numpy(np.array(done))], 1)
        dropped = min(self.to_drop, waveform.shape[1])
        n_returned = self.n_waiting if last else (waveform.shape[1] - dropped) // hop_length
        end = dropped + n_returned * hop_length
        self.to_drop, self.n_waiting, self.rest = self.to_drop - dropped, self.n_waiting - n_returned, waveform[:, end:]
        return waveform[:, dropped:end].to(mel.device)

    def _frames_done(self, state, noise, mel, last):
        """Adds frames of one waveform; returns the samples that are done with them."""
        n, hop_length, done = self.n_changing, self.config.hop_length, []
        for frame, of_frame in zip(np.ascontiguousarray(mel.T), noise.reshape(-1, hop_length)):
            _add_frame(frame, of_frame, n, self.n_iter, state, self.tables)
            n += 1
            if n > self.look_ahead:
                done.append(_finish(n, hop_length, state, self.tables))
                n -= 1
        if last:
            done += [_finish(left, hop_length, state, self.tables) for left in range(n, 0, -1)]
            done.append(state.before / np.maximum(state.overlap, LEAST_OVERLAP))  # beyond the end of the other frames
        return np.concatenate(done) if done else noise[:0]

    def _new_state(self):
        n_fft, n, kept = self.config.n_fft, self.look_ahead + 1, self.config.n_fft - self.config.hop_length
        shapes = (n, n_fft), (n, self.config.n_mels), (n, n_fft // 2 + 1), kept, kept, n_fft
        return State(*(np.zeros(shape, np.float32) for shape in shapes))


def make_tables(mel_spectrum):
    """The `Tables` of a `MelSpectrum`."""
    config, unit = mel_spectrum.config, log_unit(mel_spectrum.config)
    margin = (config.n_fft - config.win_length) // 2
    window = F.pad(mel_spectrum.window.cpu(), (margin, config.n_fft - config.win_length - margin)).numpy()
    filters = F.pad(mel_spectrum.filters.cpu(), (0, 0, 0, 1)).numpy()  # and a band of zeros, after the last
    bands, lines = (filters > 0).argmax(0), np.arange(config.n_fft // 2 + 1)
    return Tables(
        *(window, bands, np.stack([filters[bands, lines], filters[bands + 1, lines]]), filters.sum(0), filters.sum(1)[:-1]),
        *(mel_spectrum.lines, np.float32(config.power), config.std * unit, config.mean * unit),
        *(spectrum.LARGEST_LOG_MEL * config.power, mel_spectrum.unit),
    )
