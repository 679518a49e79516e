"""Synthesises with onnxruntime and NumPy alone: `python onnx_inference.py NETWORK.onnx SCHEDULE.json MEL.npy OUT.wav`.

NETWORK.onnx is written by `python -m model.export`. Nothing here needs PyTorch, nor the rest of this repository.
"""

import argparse
import json
import os
import sys
import wave

import numpy as np
import onnxruntime

# Order and share of ancestral sampling's noise.
SAMPLERS = {"ancestral": (1, 1.0), "ddim": (1, 0.0), "dpm-solver": (2, 0.0), "sde-dpm-solver": (2, 1.0)}
DEFAULT_SAMPLER = "sde-dpm-solver"


def standard_deviation(mel, config, hop_length):
    """Of the noise under the network's prior: 1 in WaveGrad, the energy-based one of PriorGrad where `config` has it.

    Args:
        mel: `[n_mels, frames]`.
        config: the configuration in the file's metadata.

    Returns:
        `[frames * hop_length]`.
    """
    n_samples = mel.shape[1] * hop_length
    if not config.get("prior"):
        return np.ones(n_samples)
    scale = config["mel"]
    unit = {"ln": 1.0, "log10": np.log(10), "db": np.log(10) * scale["power"] / 20}[scale["log"]]
    magnitudes = np.exp((mel.astype(np.float64) * scale["std"] + scale["mean"]) * unit / scale["power"])
    energy = np.sqrt((magnitudes**2).sum(0))
    logarithm = np.log((energy / config["prior"]["loudest"]).clip(config["prior"]["floor"], 1))
    return np.exp(np.interp(np.arange(n_samples) / hop_length, np.arange(mel.shape[1]), logarithm))


def sample(session, mel, betas, hop_length, generator, order=1, eta=1.0):
    """Ancestral sampling (WaveGrad, algorithm 2) or another of `SAMPLERS`, each prediction of the waveform kept within [-1, 1].

    Args:
        session: the network, an `onnxruntime.InferenceSession`.
        mel: `[n_mels, frames]`.
        betas: noise schedule, first = last denoising step.
        generator: source of the noise, called as `generator(shape)`.
        order, eta: of the sampler: 2 is DPM-Solver++(2M) (Lu et al., 2022, algorithm 2); 1 the noise of ancestral sampling, 0 none.

    Returns:
        `[frames * hop_length]`, within [-1, 1].
    """
    betas = np.asarray(betas, np.float64)
    alphas_cumprod = np.cumprod(1 - betas)
    log_snr = np.log(alphas_cumprod / (1 - alphas_cumprod))
    mel, previous_y_0 = mel[None].astype(np.float32), None
    y = generator((1, mel.shape[2] * hop_length))
    for n in reversed(range(len(betas))):
        inputs = {"y_n": y.astype(np.float32), "mel": mel, "noise_level": np.sqrt(alphas_cumprod[n : n + 1])}
        predicted_noise = session.run(None, inputs)[0]
        y_0 = (y - np.sqrt(1 - alphas_cumprod[n]) * predicted_noise) / np.sqrt(alphas_cumprod[n])
        y_0 = clipped = y_0.clip(-1, 1)
        if n == 0:
            return y_0[0]
        if order == 2 and previous_y_0 is not None:
            ratio = (log_snr[n - 1] - log_snr[n]) / (log_snr[n] - log_snr[n + 1])
            y_0 = y_0 + ratio / 2 * (y_0 - previous_y_0)
        # DDIM (Song et al., 2021, equations 12 and 16), which is ancestral sampling where eta is 1.
        previous = alphas_cumprod[n - 1]
        variance = eta**2 * (1 - previous) / (1 - alphas_cumprod[n]) * betas[n]
        noise = (y - np.sqrt(alphas_cumprod[n]) * y_0) / np.sqrt(1 - alphas_cumprod[n])
        y = np.sqrt(previous) * y_0 + np.sqrt(1 - previous - variance) * noise
        y, previous_y_0 = y + np.sqrt(variance) * generator(y.shape), clipped


def write_wav(path, waveform, sample_rate):
    """Writes `[T]` in [-1, 1] as 16-bit wav, atomically."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with wave.open(temporary, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(waveform.clip(-1, 1) * 32767).astype("<i2").tobytes())
    os.replace(temporary, path)


def read_inputs(arguments):
    """The session, its metadata, the betas, the sampler and the mel `[n_mels, frames]`; a ValueError says what cannot be used."""
    try:
        session = onnxruntime.InferenceSession(arguments.network, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        n_mels = int(metadata["n_mels"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise ValueError(f"{arguments.network}: not a network written by model.export ({type(error).__name__})") from None
    try:
        with open(arguments.schedule, encoding="utf-8") as file:
            schedule = json.load(file)
        betas = np.array(schedule["betas"], np.float64)
        sampler = SAMPLERS[arguments.sampler or schedule.get("sampler", DEFAULT_SAMPLER)]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{arguments.schedule}: not a noise schedule (wanted: JSON with the key 'betas', and one of {', '.join(SAMPLERS)} if with 'sampler')") from None
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"{arguments.schedule}: betas must be a list of numbers inside (0, 1)")
    try:
        mel = np.load(arguments.mel, allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{arguments.mel}: not a NumPy array of numbers") from None
    mel = mel[0] if mel.ndim == 3 and len(mel) == 1 else mel
    if mel.ndim != 2 or mel.shape[0] != n_mels or mel.shape[1] == 0 or not np.isfinite(mel).all():
        raise ValueError(f"{arguments.mel}: shape {list(mel.shape)} (wanted: [{n_mels}, frames], finite)")
    return session, metadata, betas, sampler, mel


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help=".onnx file written by model.export")
    parser.add_argument("schedule", help="noise schedule, .json")
    parser.add_argument("mel", help=".npy file, [n_mels, frames]")
    parser.add_argument("output", help=".wav file to write")
    parser.add_argument("--sampler", choices=SAMPLERS, help=f"(default: what the schedule was made for, or {DEFAULT_SAMPLER})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    arguments = parser.parse_args()
    try:
        session, metadata, betas, sampler, mel = read_inputs(arguments)
        generator = np.random.default_rng(arguments.seed).standard_normal
        hop_length = int(metadata["hop_length"])
        std = standard_deviation(mel, json.loads(metadata["config"]), hop_length)
        waveform = sample(session, mel, betas, hop_length, lambda shape: std * generator(shape), *sampler)
        write_wav(arguments.output, waveform, int(metadata["sample_rate"]))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
