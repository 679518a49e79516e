"""Predictions of what listeners say: of quality (PESQ, ViSQOL, DNSMOS, DistillMOS) and of intelligibility (STOI).

Their packages, those of requirements-dev.txt, are imported when used: training and inference do not need them, and some take seconds.
Weights are part of the packages.
"""

import contextlib
import functools
import io
import logging
import warnings

import numpy as np
import torch

from benchmarking.metrics.speech_rate import SPEECH_SAMPLE_RATE, at_speech_rate

STOI_WINDOW = 0.0512  # seconds, two of the frames; pystoi takes no less
VISQOL_SHORTEST = 10240  # samples, 0.64 s: nine frames that ViSQOL skips, and a patch of 20 frames


def pesq_wideband(reference, degraded, sample_rate):
    """PESQ, wideband (ITU-T P.862.2), from 1.04 (bad) to 4.64; NaN where PESQ finds no speech."""
    from pesq import PesqError, pesq

    reference, degraded = (at_speech_rate(waveform, sample_rate).numpy() for waveform in (reference, degraded))
    if not degraded.any():
        return float("nan")
    result = pesq(SPEECH_SAMPLE_RATE, reference, degraded, "wb", on_error=PesqError.RETURN_VALUES)
    return float(result) if result > 0 else float("nan")


def stoi(reference, degraded, sample_rate, extended=False):
    """STOI (Taal et al., 2011), or ESTOI (Jensen & Taal, 2016) where `extended`, up to 1; silence has 0.

    NaN where the reference has less than 30 frames, 0.4 s, that are not silent.
    """
    import pystoi

    if not reference.any() or len(reference) < STOI_WINDOW * sample_rate:
        return float("nan")
    if not degraded.any():
        return 0.0  # ESTOI would divide noise by noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)  # pystoi returns 1e-5 with it
        try:
            return float(pystoi.stoi(reference.numpy(), degraded.numpy(), sample_rate, extended=extended))
        except RuntimeWarning:
            return float("nan")


@functools.lru_cache(maxsize=1)
def _visqol_model():
    """ViSQOL in speech mode, with the polynomial from similarity to opinion scores, on one thread."""
    import numba
    from visqol import VisqolApi

    n_threads = torch.get_num_threads()
    numba.set_num_threads(1)  # it starts its threads here, one a core, and with OpenMP this thread's PyTorch would have as many
    torch.set_num_threads(n_threads)
    logging.getLogger("visqol").setLevel(logging.ERROR)  # it warns of parts that its alignment leaves out
    model = VisqolApi()
    model.create("speech", use_lattice_model=False)
    return model


def visqol(reference, degraded, sample_rate):
    """ViSQOL v3, speech mode (Chinen et al., 2020), at 16 kHz: a predicted mean opinion score, 1 (bad) to 5.

    The score is the polynomial mapping's (`--use_lattice_model=false` of Google's program). NaN where a waveform is silent, or
    shorter than 0.64 s.
    """
    reference, degraded = (at_speech_rate(waveform, sample_rate).double().numpy() for waveform in (reference, degraded))
    if len(reference) < VISQOL_SHORTEST or not (reference.any() and degraded.any()):
        return float("nan")
    return float(_visqol_model().measure_from_arrays(reference, degraded, SPEECH_SAMPLE_RATE).moslqo)


@functools.lru_cache(maxsize=1)
def _dnsmos_model():
    """DNSMOS on one thread, so that its value does not depend on the number of cores."""
    import onnxruntime
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
    """DNSMOS P.835, overall (Reddy et al., 2022): a mean opinion score, 1 (bad) to 5, predicted from the waveform alone."""
    waveform = np.clip(at_speech_rate(degraded, sample_rate).numpy(), -1, 1)
    return float(_dnsmos_model()(waveform, SPEECH_SAMPLE_RATE, False)["ovrl_mos"])


@functools.lru_cache(maxsize=1)
def _distillmos_model():
    from distillmos import ConvTransformerSQAModel

    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights are
        return ConvTransformerSQAModel().eval()


def distillmos(degraded, sample_rate):
    """DistillMOS (Stahl & Gamper, 2025): a mean opinion score, 1 (bad) to 5, predicted from the waveform alone, at 16 kHz."""
    with torch.inference_mode():
        return _distillmos_model()(at_speech_rate(degraded, sample_rate)[None]).item()
