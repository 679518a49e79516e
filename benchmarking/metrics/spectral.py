"""Distances of spectra."""

import functools

import numpy as np
from auraloss.freq import MultiResolutionSTFTLoss
from scipy.fft import dct
from scipy.signal import welch
from torchaudio.transforms import MelSpectrogram

N_CEPSTRA = 13  # coefficients 1..13, as is usual since Kubichek (1993)
N_CEPSTRUM_MELS = 80
TONE_WINDOW = 4096  # samples
TONE_FLOOR = 1e-16  # power; keeps quotients of silence finite
TONE_NEIGHBOURS = range(4, 60)  # lines of the spectrum on each side that are a line's surroundings
CEPSTRUM_FLOOR = 1e-8  # power; -80 dB below a full-scale spectral line of a window of unit sum

_m_stft = MultiResolutionSTFTLoss()


def log_mel_l1(reference_mel, degraded_mel):
    """Mean absolute difference of two log-mel spectrograms `[n_mels, frames]`, in their own unit."""
    return float(np.abs(reference_mel.numpy() - degraded_mel.numpy()).mean())


def cepstral_distance(reference_log_mel, degraded_log_mel):
    """Mel-cepstral distortion of two spectrograms `[n_mels, frames]` of ln mel power, in dB (Kubichek, 1993).

    The root mean square over mel bands of the difference of the spectral envelopes, where an envelope is what the
    coefficients 1..13 of the DCT describe: the overall level, coefficient 0, does not count. Averaged over frames.
    """
    n_mels = reference_log_mel.shape[0]
    difference = dct(degraded_log_mel - reference_log_mel, axis=0, norm="ortho")[1 : N_CEPSTRA + 1]
    # Orthonormal coefficients keep the sum of squares over bands (Parseval). With the usual normalisation of the
    # cepstrum this is (10 / ln 10) sqrt(2 sum_d (c_d - c'_d)^2).
    return float((10 / np.log(10)) * np.sqrt((difference**2).sum(0) / n_mels).mean())


@functools.lru_cache(maxsize=4)
def _cepstrum_mel(sample_rate):
    window = 2 ** round(np.log2(0.05 * sample_rate))
    return MelSpectrogram(sample_rate, n_fft=window, hop_length=sample_rate // 200, n_mels=N_CEPSTRUM_MELS, normalized="frame_length")


def mel_cepstral_distortion(reference, degraded, sample_rate):
    """Mel-cepstral distortion in dB, frame by frame (a vocoder keeps the timing, so nothing is warped), every 5 ms.

    NaN where the waveforms are shorter than a window, 50 ms.
    """
    mel = _cepstrum_mel(sample_rate)
    if len(reference) < mel.n_fft:
        return float("nan")
    logs = (mel(waveform).clamp(min=CEPSTRUM_FLOOR).log().numpy() for waveform in (reference, degraded))
    return cepstral_distance(*logs)


def tone(reference, degraded, sample_rate):
    """How much further a line stands out of the mean spectrum than in the reference, in dB: what a network that works at a part of the
    rate, or that upsamples, may add as a steady tone.

    The lines are those at multiples of an eighth of the sample rate, below its half. How far a line stands out is its power over the
    median of its surroundings, in the mean spectrum over windows of 4,096 samples. The largest difference counts. Without a tone it is
    the chance that two spectra differ by: 0 for the reference itself. NaN where a waveform is shorter than two windows, or silent.
    """
    if len(reference) < 2 * TONE_WINDOW or not (reference.any() and degraded.any()):
        return float("nan")
    spectra = [welch(waveform.double().numpy(), sample_rate, nperseg=TONE_WINDOW)[1] for waveform in (reference, degraded)]
    lines = range(TONE_WINDOW // 8, TONE_WINDOW // 2, TONE_WINDOW // 8)
    return float(max(_standing_out(spectra[1], line) - _standing_out(spectra[0], line) for line in lines))


def _standing_out(spectrum, line):
    """The power of a line of a spectrum over the median of its surroundings, in dB."""
    around = [line + side * n for side in (-1, 1) for n in TONE_NEIGHBOURS]
    return 10 * np.log10((spectrum[line - 1 : line + 2].max() + TONE_FLOOR) / (np.median(spectrum[around]) + TONE_FLOOR))


def multi_resolution_stft(reference, degraded):
    """M-STFT: auraloss's `MultiResolutionSTFTLoss` with its defaults (as in BigVGAN, Lee et al., 2023), without unit, from 0.

    Spectral convergence plus L1 of ln magnitudes, the mean over windows of 240, 600 and 1,200 samples (Yamamoto et al., 2020), at the
    sample rate of the waveforms. NaN where the reference is silent, for the distance is relative to it, or shorter than the longest
    FFT, 2,048 samples.
    """
    if not reference.any() or len(reference) < max(_m_stft.fft_sizes):
        return float("nan")
    return _m_stft(degraded[None, None], reference[None, None]).item()
