"""Griffin-Lim for frames that arrive one after the other, after RTISI-LA (Zhu, Beauregard and Wyse, 2007), towards a mel.

A new frame takes its phases from the waveform so far, which overlaps with most of it. Then a few iterations of Griffin-Lim make the newest
frames fit each other, and the oldest of these is done: it keeps what it is. So the phases of a voice go on from frame to frame. Griffin-Lim
that changes all frames at once begins with phases that fit nowhere, and needs many more iterations.

The waveform of frames f_k with the window w is that of least squares, sum of w f_k / sum of w^2 (Griffin and Lim, 1984). What differs
from RTISI-LA: magnitudes are those of the waveform so far, scaled towards a mel; a new frame has a little noise; iterations have momentum;
and the divisor has a lower limit at the end of the waveform, where RTISI-LA gives the newest frame a window of its own.

A rounding error grows from frame to frame until the phases are others. So nothing here depends on how many frames or waveforms come
together, and the products with the filters, whose rounding would, are computed in float64.
"""

import contextlib
import threading

import torch
import torch.nn.functional as F

from extensions.griffin_lim.spectrum import LEAST_GAIN, MOST_GAIN, TINY

MOMENTUM = 0.99  # of fast Griffin-Lim (Perraudin et al., 2013)
NEW = 0.01  # share of noise in a new frame's magnitudes: what begins here has no phases in the waveform so far
LEAST_OVERLAP = 0.4  # the sum of squared windows by which a waveform is divided, where its last frames are not there yet


_inside, _n_threads, _lock = 0, 1, threading.Lock()  # calls within `one_thread`, and the number of threads before the first of them


@contextlib.contextmanager
def one_thread():
    """Operations of a few microseconds are not shared among threads, which would wait for each other, on a busy machine for long.

    PyTorch's number of threads is that of the whole process: a thread whose first operation falls into another one's call keeps one
    for itself, until it sets another number or calls this.
    """
    global _inside, _n_threads
    with _lock:
        if _inside == 0:
            _n_threads = torch.get_num_threads()
        _inside += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_n_threads)
        with _lock:
            _inside -= 1


class RealTimeGriffinLim:
    """The state between frames of a batch of waveforms.

    Args:
        spectrum: a `extensions.griffin_lim.spectrum.MelSpectrum`, on the device of the mels.
        n_iter: iterations for each new frame, 1 or more.
        look_ahead: number of frames after a frame that change with it, 0 or more.
    """

    def __init__(self, spectrum, n_iter, look_ahead):
        self.spectrum, self.n_iter, self.look_ahead = spectrum, n_iter, look_ahead
        config = spectrum.config
        self.n_fft, self.hop_length = config.n_fft, config.hop_length
        margin = (config.n_fft - config.win_length) // 2
        self.window = F.pad(spectrum.window, (margin, config.n_fft - config.win_length - margin))
        self.filters = spectrum.filters.double()
        self.widths, self.has_band = spectrum.widths[:, 0].double().clamp(min=TINY), spectrum.widths[:, 0] > TINY

        self.frames = None  # those that still change, `[B, n, n_fft]`
        self.targets = None  # their mels, not logarithmic, `[B, n, n_mels]`
        self.smooth = None  # their magnitudes by `MelSpectrum.smooth_magnitude`, `[B, n, n_fft / 2 + 1]`
        self.before = None  # sum of w f_k of the frames before them, `[B, n_fft - hop_length]`
        self.overlap = self.window.new_zeros(self.n_fft - self.hop_length)  # sum of w^2 of the frames before them
        self.divisors = {}  # sum of w^2 of these and n frames more, by n
        self.noise = None  # the last `[B, n_fft]`
        self.rest = None  # samples that are done and not returned, `[B, less than hop_length]`
        self.n_finished = 0  # frames
        self.n_waiting = 0  # frames whose waveform is not returned
        self.to_drop = spectrum.margins[0]  # samples of the first frames that are before the waveform

    @property
    def latency_frames(self):
        """Number of frames that must follow a frame before its waveform is complete."""
        return self.look_ahead + -(-self.spectrum.margins[0] // self.hop_length)

    @torch.no_grad()
    def push(self, noise, mel, last):
        """Receives the next frames and returns the waveform that is complete with them.

        Args:
            noise: standard normal, for the phases of what begins in a frame, `[B, F * hop_length]`.
            mel: log-mel, `[B, n_mels, F]`.
            last: these are the last frames; the rest of the waveform is returned.

        Returns:
            `[B, T]`; T is a multiple of the hop length, as long as all frames before were.
        """
        noise = noise.float()
        if self.frames is None:
            self.noise = noise.new_zeros(len(noise), self.n_fft)
            self.before, self.rest = self.noise[:, self.hop_length :], noise[:, :0]
            widths = self.n_fft, mel.shape[1], len(self.widths)
            self.frames, self.targets, self.smooth = (noise.new_zeros(len(noise), 0, width) for width in widths)
        self.n_waiting += mel.shape[2]
        done = [self.rest]
        with one_thread():
            for frame in range(mel.shape[2]):
                self._begin(noise[:, frame * self.hop_length : (frame + 1) * self.hop_length], mel[..., frame : frame + 1])
                self._iterate()
                if self.frames.shape[1] > self.look_ahead:
                    done.append(self._finish())
        while last and self.frames.shape[1]:
            done.append(self._finish())
        if last:  # what the last frame holds beyond the end of the others
            done.append(self.before / self.overlap.clamp(min=LEAST_OVERLAP))
        waveform = torch.cat(done, 1)
        dropped = min(self.to_drop, waveform.shape[1])
        n_returned = self.n_waiting if last else (waveform.shape[1] - dropped) // self.hop_length
        end = dropped + n_returned * self.hop_length
        self.to_drop, self.n_waiting, self.rest = self.to_drop - dropped, self.n_waiting - n_returned, waveform[:, end:]
        return waveform[:, dropped:end]

    def _sum(self, frames):
        """Overlapping frames `[B, n, n_fft]` added up, `[B, (n - 1) * hop_length + n_fft]`."""
        length = (frames.shape[1] - 1) * self.hop_length + self.n_fft
        return F.fold(frames.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop_length))[:, 0, 0]

    def _waveform(self, frames):
        """The waveform from the first frame that still changes on, of such frames `[B, n, n_fft]`: sum of w f_k / sum of w^2."""
        n, kept = frames.shape[1], len(self.overlap)
        if n not in self.divisors:
            squares = self._sum(self.window.square().expand(1, n, -1))[0]
            squares[:kept] += self.overlap
            self.divisors[n] = squares.clamp(min=LEAST_OVERLAP)
        total = self._sum(frames * self.window)
        total[:, :kept] += self.before
        return total / self.divisors[n]

    def _towards(self, spectra, begin, end):
        """Spectra `[B, n, n_fft / 2 + 1]` of the frames from `begin` to `end`, scaled once towards their mel, as `MelSpectrum` does."""
        magnitude, exponent = self.spectrum.magnitude(spectra), self.spectrum.config.power
        power = magnitude.double() if exponent == 1 else magnitude.double().pow(exponent)
        of_band = self.targets[:, begin:end] / (power @ self.filters.T).clamp(min=TINY)
        gain = (of_band @ self.filters / self.widths).clamp(LEAST_GAIN, MOST_GAIN)
        gain = gain.float() if exponent == 1 else gain.pow(1 / exponent).float()
        without_band = self.smooth[:, begin:end] / magnitude.clamp(min=TINY)
        return spectra * torch.where(self.has_band, gain, without_band)

    def _begin(self, noise, mel):
        """Adds a frame; noise `[B, hop_length]`, log-mel `[B, n_mels, 1]`."""
        n, target = self.frames.shape[1], self.spectrum.target(mel)
        self.targets = torch.cat([self.targets, target.transpose(1, 2)], 1)
        self.smooth = torch.cat([self.smooth, self.spectrum.smooth_magnitude(target).transpose(1, 2)], 1)
        self.noise = torch.cat([self.noise[:, self.hop_length :], noise], 1)
        so_far = self._waveform(F.pad(self.frames, (0, 0, 0, 1)))[:, -self.n_fft :]
        fresh = torch.fft.rfft(self.noise * self.window)
        fresh = fresh * (NEW * self.smooth[:, n] / self.spectrum.magnitude(fresh).clamp(min=TINY))
        spectrum = (torch.fft.rfft(so_far * self.window) + fresh)[:, None]
        self.frames = torch.cat([self.frames, torch.fft.irfft(self._towards(spectrum, n, n + 1), self.n_fft)], 1)

    def _iterate(self):
        """Griffin-Lim for the frames that still change."""
        n, before = self.frames.shape[1], None
        for _ in range(self.n_iter):
            consistent = torch.fft.rfft(self._waveform(self.frames).unfold(1, self.n_fft, self.hop_length) * self.window)
            spectra = consistent if before is None else consistent + MOMENTUM * (consistent - before)
            self.frames, before = torch.fft.irfft(self._towards(spectra, 0, n), self.n_fft), consistent

    def _finish(self):
        """Ends the oldest frame; returns the samples that no later frame changes, `[B, hop_length]`."""
        done, self.frames = self.frames[:, 0], self.frames[:, 1:]
        self.targets, self.smooth = self.targets[:, 1:], self.smooth[:, 1:]
        total = F.pad(self.before, (0, self.hop_length)) + done * self.window
        overlap = F.pad(self.overlap, (0, self.hop_length)) + self.window.square()
        hop = self.hop_length
        self.n_finished += 1
        if self.n_finished <= self.n_fft // hop + 1:  # then it stays as it is
            self.overlap, self.divisors = overlap[hop:], {}
        self.before = total[:, hop:]
        return total[:, :hop] / overlap[:hop].clamp(min=LEAST_OVERLAP)
