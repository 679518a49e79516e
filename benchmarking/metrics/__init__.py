"""How close a waveform is to a recording.

Waveforms are `[T]` float tensors in [-1, 1] on the CPU. `METRICS` lists every metric under one signature.

A metric that cannot judge a recording, because it is too short or silent, has no value for it, NaN, and never one that looks
like a measurement: a recording compared with itself has the best value or none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarking.metrics.perceptual import distillmos, dnsmos, pesq_wideband, stoi, visqol
from benchmarking.metrics.pitch import f0_frame_error, periodicity_error, voiced_unvoiced_f1
from benchmarking.metrics.spectral import log_mel_l1, mel_cepstral_distortion, multi_resolution_stft, tone


@dataclass(frozen=True)
class Metric:
    """A measure of quality, and how tables show it.

    Args:
        label: heading of a table's column.
        higher_is_better: the direction.
        function: called as `measure` is, with finite waveforms.
        explained: one line for a reader who does not know it.
        is_slow: whether it takes longer than all the others together.
    """

    label: str
    higher_is_better: bool
    function: Callable
    explained: str
    is_slow: bool = False

    def measure(self, recording, waveform, mel_transform):
        """The value for a recording `[T]` and a waveform `[T]`; NaN where there is none.

        Args:
            mel_transform: the `LogMelSpectrogram` that they are compared with.
        """
        if not (recording.isfinite().all() and waveform.isfinite().all()):
            return float("nan")
        return self.function(recording, waveform, mel_transform)


def _of_waveforms(function, **options):
    return lambda recording, waveform, mel_transform: function(recording, waveform, mel_transform.config.sample_rate, **options)


def _log_mel_l1(recording, waveform, mel_transform):
    is_shorter_than_a_window = len(recording) < mel_transform.config.n_fft
    return float("nan") if is_shorter_than_a_window else log_mel_l1(mel_transform(recording), mel_transform(waveform))


METRICS = {
    "pesq": Metric("PESQ", True, _of_waveforms(pesq_wideband), "predicted opinion score beside the recording, 1 to 4.64"),
    "visqol": Metric("ViSQOL", True, _of_waveforms(visqol), "another prediction of that score, 1 to 5"),
    "stoi": Metric("STOI", True, _of_waveforms(stoi), "how intelligible the speech is, beside the recording; up to 1"),
    "estoi": Metric("ESTOI", True, _of_waveforms(stoi, extended=True), "a stricter form of STOI; up to 1"),
    "mcd": Metric("MCD (dB)", False, _of_waveforms(mel_cepstral_distortion), "mel-cepstral distortion: distance of spectral envelopes"),
    "log_mel_l1": Metric("log-mel L1", False, _log_mel_l1, "mean distance of the mels"),
    "m_stft": Metric("M-STFT", False, lambda a, b, mel: multi_resolution_stft(a, b), "distance of spectrograms of three resolutions"),
    "tone": Metric("tone (dB)", False, _of_waveforms(tone), "how much a steady whistle stands out that the recording does not have"),
    "ffe": Metric("F0 frame error", False, _of_waveforms(f0_frame_error), "share of the time in which the pitch is wrong"),
    "periodicity": Metric("periodicity RMSE", False, _of_waveforms(periodicity_error), "error in how periodic the voice is", is_slow=True),
    "vuv_f1": Metric("V/UV F1", True, _of_waveforms(voiced_unvoiced_f1), "F1 of voiced/unvoiced decisions; up to 1", is_slow=True),
    "dnsmos": Metric(
        "DNSMOS", True, lambda a, b, mel: dnsmos(b, mel.config.sample_rate), "predicted opinion score of the sound alone, 1 to 5"
    ),
    "distillmos": Metric("DistillMOS", True, lambda a, b, mel: distillmos(b, mel.config.sample_rate), "another prediction of it, 1 to 5"),
}
