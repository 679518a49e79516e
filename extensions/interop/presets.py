"""Mel definitions of what people have: checkpoints and text-to-speech models, by name.

Each is the whole definition, sample rate included, of the project it is named after, without its comments on them.
"""

from common.errors import InputError
from model.config import MelConfig

_LJSPEECH = {"sample_rate": 22050, "n_fft": 1024, "win_length": 1024, "hop_length": 256, "n_mels": 80}
_24_KHZ = {"sample_rate": 24000, "n_fft": 1024, "win_length": 1024, "hop_length": 256, "n_mels": 100, "f_min": 0.0, "f_max": 12000.0}
_LIBROSA = {"mel_scale": "slaney", "norm": "slaney"}  # the defaults of librosa.filters.mel
_HIFIGAN = {"power": 1.0, "log": "ln", "clamp_min": 1e-5, "spectrum_offset": 1e-9, "padding": "same"}
_DECIBELS_IN_01 = {"normalized": True, "log": "db", "clamp_min": 1e-5, "mean": -80.0, "std": 100.0, "clip": (0.0, 1.0)}
_IVANVOVK = {"sample_rate": 22050, "n_fft": 1024, "win_length": 1024, "hop_length": 300, "n_mels": 80, "f_min": 80.0, "f_max": 8000.0}

PRESETS = {
    # configs/default.json: ivanvovk's bands, with silence as the smallest value.
    "wavegrad": MelConfig(**_IVANVOVK),
    # ivanvovk/WaveGrad, data.py.
    "ivanvovk": MelConfig(**_IVANVOVK, clamp="zero"),
    # lmnt-com/wavegrad, preprocess.py, at the 24 kHz of its published weights.
    "lmnt": MelConfig(
        sample_rate=24000,
        n_fft=2048,
        win_length=1200,
        hop_length=300,
        n_mels=128,
        f_min=20.0,
        f_max=12000.0,
        power=1.0,
        **_DECIBELS_IN_01,
    ),
    # lmnt-com/diffwave, preprocess.py.
    "diffwave": MelConfig(**_LJSPEECH, f_min=20.0, f_max=11025.0, power=1.0, **_DECIBELS_IN_01),
    # NVIDIA/tacotron2, layers.py (WaveGlow and FastPitch too).
    "tacotron2": MelConfig(**_LJSPEECH, **_LIBROSA, f_min=0.0, f_max=8000.0, power=1.0, log="ln", clamp_min=1e-5),
    # jik876/hifi-gan, meldataset.py, config_v1.json (Matcha-TTS and Grad-TTS too).
    "hifigan": MelConfig(**_LJSPEECH, **_LIBROSA, f_min=0.0, f_max=8000.0, **_HIFIGAN),
    # NVIDIA/BigVGAN, bigvgan_base_24khz_100band.json: HiFi-GAN's features, wider.
    "bigvgan": MelConfig(**_24_KHZ, **_LIBROSA, **_HIFIGAN),
    # kan-bayashi/ParallelWaveGAN, bin/preprocess.py, before its normalisation by band; ESPnet's text-to-speech too.
    "parallel_wavegan": MelConfig(**_LJSPEECH, **_LIBROSA, f_min=80.0, f_max=7600.0, power=1.0, log="log10", clamp_min=1e-10),
    # gemelo-ai/vocos, feature_extractors.py, vocos-mel-24khz (F5-TTS too).
    "vocos": MelConfig(**_24_KHZ, power=1.0, log="ln", clamp_min=1e-7),
}


def preset(name):
    """The `MelConfig` of that name.

    Raises:
        InputError: there is none; the message names those that there are.
    """
    if name not in PRESETS:
        raise InputError(f"no mel definition is called '{name}' (expected: one of {', '.join(PRESETS)})")
    return PRESETS[name]
