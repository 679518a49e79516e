"""How close a waveform is to a recording.

Waveforms are `[T]` float tensors in [-1, 1] on the CPU. `METRICS` lists every metric under one signature.

A metric that cannot judge a recording, because it is too short or silent, has no value for it, NaN, and never one that looks
like a measurement: a recording compared with itself has the best value or none.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import librosa
import numpy as np
import torch
from pesq import PesqError, pesq
from pystoi import stoi
from scipy.fft import dct
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

SPEECH_SAMPLE_RATE = 16000  # wideband PESQ and DNSMOS are defined there

N_CEPSTRA = 13  # coefficients 1..13, as is usual since Kubichek (1993)
N_CEPSTRUM_MELS = 80
CEPSTRUM_FLOOR = 1e-8  # power; -80 dB below a full-scale spectral line of a window of unit sum

# (n_fft, hop, window), Yamamoto et al., 2020 (Parallel WaveGAN), section 3.1.
STFT_RESOLUTIONS = [(1024, 120, 600), (2048, 240, 1200), (512, 50, 240)]
STFT_FLOOR = 1e-5  # magnitude; keeps digital silence from dominating the logarithm

STOI_WINDOW = 0.0512  # seconds, two of the frames; pystoi takes no less

F0_MIN, F0_MAX = 60.0, 500.0  # Hz, speech
F0_HOP = 0.01  # seconds
GROSS_PITCH_ERROR = 0.2  # Chu & Alwan, 2009


def _at_speech_rate(waveform, sample_rate):
    if sample_rate != SPEECH_SAMPLE_RATE:
        waveform = resample(waveform, sample_rate, SPEECH_SAMPLE_RATE)
    return waveform.numpy()


def pesq_wideband(reference, degraded, sample_rate):
    """PESQ, wideband (ITU-T P.862.2), from 1.04 (bad) to 4.64; NaN where PESQ finds no speech."""
    reference, degraded = (_at_speech_rate(waveform, sample_rate) for waveform in (reference, degraded))
    if not degraded.any():
        return float("nan")
    result = pesq(SPEECH_SAMPLE_RATE, reference, degraded, "wb", on_error=PesqError.RETURN_VALUES)
    return float(result) if result > 0 else float("nan")


def short_time_intelligibility(reference, degraded, sample_rate, extended=False):
    """STOI (Taal et al., 2011), or ESTOI (Jensen & Taal, 2016) where `extended`, up to 1; silence has 0.

    NaN where the reference has less than 30 frames, 0.4 s, that are not silent.
    """
    if not reference.any() or len(reference) < STOI_WINDOW * sample_rate:
        return float("nan")
    if not degraded.any():
        return 0.0  # ESTOI would divide noise by noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)  # pystoi returns 1e-5 with it
        try:
            return float(stoi(reference.numpy(), degraded.numpy(), sample_rate, extended=extended))
        except RuntimeWarning:
            return float("nan")


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

    NaN where the waveforms are no longer than half a window, 25 ms.
    """
    mel = _cepstrum_mel(sample_rate)
    if len(reference) <= mel.n_fft // 2:
        return float("nan")
    logs = (mel(waveform).clamp(min=CEPSTRUM_FLOOR).log().numpy() for waveform in (reference, degraded))
    return cepstral_distance(*logs)


def multi_resolution_stft_distance(reference, degraded):
    """Spectral convergence plus L1 of ln magnitudes, the mean over three resolutions (Yamamoto et al., 2020).

    Args:
        reference, degraded: `[T]` or `[B, T]`, T above 1024, on any device; gradients flow back to them.

    Returns:
        a tensor `[]` or `[B]`.
    """
    distances = []
    for n_fft, hop_length, win_length in STFT_RESOLUTIONS:
        window = torch.hann_window(win_length, device=reference.device)
        a, b = (
            torch.stft(waveform, n_fft, hop_length, win_length, window, return_complex=True).abs().clamp(min=STFT_FLOOR)
            for waveform in (reference, degraded)
        )
        convergence = torch.linalg.matrix_norm(a - b) / torch.linalg.matrix_norm(a)
        distances.append(convergence + (a.log() - b.log()).abs().mean(dim=(-2, -1)))
    return sum(distances) / len(distances)


def stft_distance(reference, degraded):
    """`multi_resolution_stft_distance` of two waveforms; NaN where the reference is silent, which a relative distance cannot be to,
    or no longer than half the longest window."""
    if not reference.any() or len(reference) <= max(n_fft for n_fft, *_ in STFT_RESOLUTIONS) // 2:
        return float("nan")
    return multi_resolution_stft_distance(reference, degraded).item()


def _pitch(waveform, sample_rate):
    """F0 in Hz every 10 ms, 0 where unvoiced (pYIN, Mauch & Dixon, 2014)."""
    frame_length = 2 ** int(np.ceil(np.log2(3 * sample_rate / F0_MIN)))  # three periods of the lowest pitch
    f0, voiced, _ = librosa.pyin(
        waveform.numpy(),
        fmin=F0_MIN,
        fmax=F0_MAX,
        sr=sample_rate,
        frame_length=frame_length,
        hop_length=round(F0_HOP * sample_rate),
        resolution=0.2,
    )
    return np.where(voiced, np.nan_to_num(f0), 0.0)


def pitch_frame_error(reference_f0, degraded_f0):
    """Share of frames voiced in one and not in the other, or off by more than 20 % (Chu & Alwan, 2009).

    Args:
        reference_f0, degraded_f0: `[frames]` arrays in Hz, 0 where unvoiced.
    """
    voiced = reference_f0 > 0
    voicing_errors = voiced != (degraded_f0 > 0)
    pitch_errors = voiced & ~voicing_errors & (np.abs(degraded_f0 - reference_f0) > GROSS_PITCH_ERROR * reference_f0)
    return float((voicing_errors | pitch_errors).mean())


def f0_frame_error(reference, degraded, sample_rate):
    """F0 frame error of two waveforms, from 0 to 1; see `pitch_frame_error`."""
    return pitch_frame_error(_pitch(reference, sample_rate), _pitch(degraded, sample_rate))


@functools.lru_cache(maxsize=1)
def _dnsmos_model():
    """DNSMOS on one thread, so that its value does not depend on the number of cores."""
    import onnxruntime  # slow to import, and training does not need it
    import speechmos
    from speechmos.dnsmos import DNSMOS

    folder = f"{speechmos.__path__[0]}/dnsmos_models"
    model = DNSMOS(f"{folder}/sig_bak_ovr.onnx", f"{folder}/model_v8.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    model.onnx_sess = onnxruntime.InferenceSession(f"{folder}/sig_bak_ovr.onnx", options, providers)
    model.p808_onnx_sess = onnxruntime.InferenceSession(f"{folder}/model_v8.onnx", options, providers)
    return model


def dnsmos(degraded, sample_rate):
    """A prediction of the mean opinion score from the waveform alone, 1 to 5 (DNSMOS P.835, overall; Reddy et al., 2022)."""
    waveform = np.clip(_at_speech_rate(degraded, sample_rate), -1, 1)
    return float(_dnsmos_model()(waveform, SPEECH_SAMPLE_RATE, False)["ovrl_mos"])


@dataclass(frozen=True)
class Metric:
    """A measure of quality, and how tables show it.

    Args:
        label: heading of a table's column.
        higher_is_better: the direction.
        function: called as `measure` is, with finite waveforms.
    """

    label: str
    higher_is_better: bool
    function: Callable

    def measure(self, recording, waveform, mel):
        """The value for a recording `[T]` and a waveform `[T]`; NaN where there is none.

        Args:
            mel: the `LogMelSpectrogram` that they are compared with.
        """
        if not (recording.isfinite().all() and waveform.isfinite().all()):
            return float("nan")
        return self.function(recording, waveform, mel)


METRICS = {
    "pesq": Metric("PESQ", True, lambda a, b, mel: pesq_wideband(a, b, mel.config.sample_rate)),
    "stoi": Metric("STOI", True, lambda a, b, mel: short_time_intelligibility(a, b, mel.config.sample_rate)),
    "estoi": Metric("ESTOI", True, lambda a, b, mel: short_time_intelligibility(a, b, mel.config.sample_rate, True)),
    "mcd": Metric("MCD (dB)", False, lambda a, b, mel: mel_cepstral_distortion(a, b, mel.config.sample_rate)),
    "log_mel_l1": Metric("log-mel L1", False, lambda a, b, mel: log_mel_l1(mel(a), mel(b))),
    "stft": Metric("STFT distance", False, lambda a, b, mel: stft_distance(a, b)),
    "ffe": Metric("F0 frame error", False, lambda a, b, mel: f0_frame_error(a, b, mel.config.sample_rate)),
    "dnsmos": Metric("DNSMOS", True, lambda a, b, mel: dnsmos(b, mel.config.sample_rate)),
}
