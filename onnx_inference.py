"""Synthesises with onnxruntime and NumPy alone: `python onnx_inference.py GRAPH.onnx [SCHEDULE.json] MEL.npy OUT.wav`.

GRAPH.onnx is written by `python -m model.export`: a whole synthesis, which has its schedule, or one network call, which needs one. Nothing
here needs PyTorch, nor the rest of this repository.
"""

import argparse
import json
import math
import os
import secrets
import signal
import sys
import wave

import numpy as np
import onnxruntime

# Order and share of ancestral sampling's noise.
SAMPLERS = {"ancestral": (1, 1.0), "ddim": (1, 0.0), "dpm-solver": (2, 0.0), "sde-dpm-solver": (2, 1.0)}
DEFAULT_SAMPLER = "sde-dpm-solver"
INPUTS, SYNTHESIS_INPUTS = ["y_n", "mel", "noise_level"], ["mel", "noise"]
UNITS = {"ln": lambda power: 1.0, "log10": lambda power: math.log(10), "db": lambda power: math.log(10) * power / 20}
LARGEST_SEED = 2**47 - 1  # as of inference.py


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
    unit = UNITS[scale["log"]](scale["power"])
    magnitudes = np.exp((mel.astype(np.float64) * scale["std"] + scale["mean"]) * unit / scale["power"])
    energy = np.sqrt((magnitudes**2).sum(0))
    logarithm = np.log((energy / config["prior"]["loudest"]).clip(config["prior"]["floor"], 1))
    return np.exp(np.interp(np.arange(n_samples) / hop_length, np.arange(mel.shape[1]), logarithm))


class Network:
    """The network, called with the whitened noisy waveform `[1, T]`, the mel and the noise level; returns the predicted noise `[1, T]`.

    Args:
        session: an `onnxruntime.InferenceSession`.
        std: the standard deviation that the waveform of the graph has beyond the whitened one; 1, but in files of earlier versions.
    """

    def __init__(self, session, std=1.0):
        self.session, self.std = session, std

    def __call__(self, y_n, mel, noise_level):
        inputs = [(self.std * y_n).astype(np.float32), mel, noise_level]
        return self.session.run(None, dict(zip(INPUTS, inputs)))[0] / self.std


def sample(network, mel, betas, hop_length, generator, order=1, eta=1.0, std=1.0):
    """Ancestral sampling (WaveGrad, algorithm 2) or another of `SAMPLERS`, each prediction of the waveform kept within [-1, 1].

    It is done in whitened waveforms, those divided by std.

    Args:
        network: a `Network`.
        mel: `[n_mels, frames]`.
        betas: noise schedule, first = last denoising step.
        generator: source of the noise, called as `generator(shape)`.
        order, eta: of the sampler: 2 is DPM-Solver++(2M) (Lu et al., 2022, algorithm 2); 1 the noise of ancestral sampling, 0 none.
        std: see `standard_deviation`.

    Returns:
        `[frames * hop_length]`, within [-1, 1].
    """
    betas = np.asarray(betas, np.float64)
    alphas_cumprod = np.cumprod(1 - betas)
    log_snr = np.log(alphas_cumprod / (1 - alphas_cumprod))
    mel, previous_y_0 = mel[None].astype(np.float32), None
    y = generator((1, mel.shape[2] * hop_length))
    for n in reversed(range(len(betas))):
        predicted_noise = network(y, mel, np.sqrt(alphas_cumprod[n : n + 1]))
        y_0 = (y - np.sqrt(1 - alphas_cumprod[n]) * predicted_noise) / np.sqrt(alphas_cumprod[n])
        y_0 = clipped = y_0.clip(-1 / std, 1 / std)
        if n == 0:
            return (std * y_0)[0]
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
    temporary = os.path.join(os.path.dirname(path), f".{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "wb") as file:
            with wave.open(file, "wb") as wav:
                wav.setnchannels(1)
                wav.setsampwidth(2)
                wav.setframerate(sample_rate)
                wav.writeframes(np.round(waveform.clip(-1, 1) * 32767).astype("<i2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def check_file(path):
    """Raises a ValueError where there is no regular file."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: {'not a regular file' if os.path.exists(path) else 'No such file'}")


def check_output(path, inputs):
    """Raises a ValueError where a file cannot be written, or is one of the inputs, through a link perhaps."""
    if not os.path.isdir(os.path.dirname(path) or ".") or os.path.isdir(path):
        raise ValueError(f"{path}: cannot be written (wanted: a file in a folder that is there)")
    for source in inputs:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise ValueError(f"{path}: the result would overwrite {source} (wanted: another name)")


def read_graph(path):
    """The session, and its metadata: a dictionary of whole numbers, and `config`; a ValueError says what is wrong."""
    check_file(path)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise ValueError(f"{path}: not an ONNX file, or a damaged one ({type(error).__name__})") from None
    metadata = session.get_modelmeta().custom_metadata_map
    inputs = [node.name for node in session.get_inputs()]
    if inputs not in (INPUTS, SYNTHESIS_INPUTS) or not metadata:
        wanted = f"{', '.join(INPUTS)}, or {', '.join(SYNTHESIS_INPUTS)}"
        raise ValueError(f"{path}: not a graph written by model.export (wanted: the inputs {wanted}, and metadata)")
    facts = {}
    keys = ["sample_rate", "hop_length", "n_mels"] + (["n_noises", "fewest_frames"] if inputs == SYNTHESIS_INPUTS else [])
    for key in keys:
        text = metadata.get(key, "")
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 8 and int(text) > 0):
            raise ValueError(f"{path}: its metadata has the {key} '{text[:60]}' (wanted: a whole number above 0)")
        facts[key] = int(text)
    found = session.get_inputs()[inputs.index("mel")].shape[1:2]
    if found != [facts["n_mels"]]:
        raise ValueError(f"{path}: its metadata says {facts['n_mels']} mel bands, its graph {found}")
    try:
        config = json.loads(metadata.get("config", ""))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: the configuration in its metadata is not JSON") from None
    check_prior(config, path)
    return session, facts | {"config": config}


def check_prior(config, path):
    """Raises a ValueError where `standard_deviation` cannot use a configuration."""

    def number(section, key, least=-math.inf):
        value = config[section].get(key) if isinstance(config.get(section), dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < math.inf:
            raise ValueError(f"{path}: the configuration in its metadata has no number {section}.{key} that can be used")

    if not isinstance(config, dict):
        raise ValueError(f"{path}: the configuration in its metadata is no dictionary")
    if config.get("prior"):
        for key, least in (("power", 0), ("std", 0), ("mean", -math.inf)):
            number("mel", key, least)
        for key in ("loudest", "floor"):
            number("prior", key, 0)
        if config["mel"].get("log") not in list(UNITS):
            raise ValueError(f"{path}: the configuration in its metadata has no mel.log (wanted: {', '.join(UNITS)})")


def read_schedule(path, sampler=None):
    """The betas, and the values of `SAMPLERS`: those of a name, or of the one in the file; a ValueError says what is wrong."""
    check_file(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            schedule = json.load(file)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not JSON (wanted: a noise schedule)") from None
    schedule = {"betas": schedule} if isinstance(schedule, list) else schedule
    try:
        betas = np.array(schedule["betas"])
        if betas.size and betas.dtype.kind not in "fi":  # text that looks like numbers, say
            raise TypeError
        betas = betas.astype(np.float64)
        values = SAMPLERS[sampler or schedule.get("sampler", DEFAULT_SAMPLER)]
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
        names = ", ".join(SAMPLERS)
        raise ValueError(
            f"{path}: not a noise schedule (wanted: JSON with the key 'betas', and one of {names} if with 'sampler')"
        ) from None
    if schedule.get("griffin_lim") is not None:
        raise ValueError(f"{path}: it starts from Griffin-Lim's estimate (wanted: a noise schedule without griffin_lim)")
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"{path}: betas must be a list of numbers inside (0, 1)")
    return betas, values


def read_mel(path, n_mels):
    """A mel `[n_mels, frames]`, float32; a ValueError says what is wrong."""
    check_file(path)
    try:
        mel = np.load(path, allow_pickle=False)
    except Exception:  # NumPy promises no set of exceptions for damaged files
        raise ValueError(f"{path}: not a NumPy array of numbers (wanted: .npy)") from None
    if not isinstance(mel, np.ndarray) or mel.dtype.kind not in "fiu":
        kind = mel.dtype if isinstance(mel, np.ndarray) else "an archive, as of .npz or PyTorch's .pt"
        raise ValueError(f"{path}: holds {kind} (wanted: .npy, a NumPy array of real numbers)")
    mel = mel[0] if mel.ndim == 3 and len(mel) == 1 else mel
    with np.errstate(over="ignore"):
        mel = mel.astype(np.float32)
    if mel.ndim != 2 or mel.shape[0] != n_mels or mel.shape[1] == 0 or not np.isfinite(mel).all():
        raise ValueError(f"{path}: shape {list(mel.shape)} (wanted: [{n_mels}, frames], finite)")
    return mel


def run_synthesis(session, facts, mel, generator):
    """The waveform `[T]` of a whole synthesis."""
    noise = generator((1, facts["n_noises"], mel.shape[1] * facts["hop_length"]))
    return session.run(None, {"mel": mel[None], "noise": noise.astype(np.float32)})[0][0]


def run_steps(session, facts, mel, generator, betas, sampler):
    """The waveform `[T]`, with one network call for each step."""
    std = standard_deviation(mel, facts["config"], facts["hop_length"])
    is_whitened = "whitened" in session.get_modelmeta().custom_metadata_map  # not in files of earlier versions
    network = Network(session, 1.0 if is_whitened else std)
    return sample(network, mel, betas, facts["hop_length"], generator, *sampler, std)


def synthesize(arguments):
    """Reads, samples and writes; a ValueError says in one line what is wrong."""
    check_output(arguments.output, [path for path in (arguments.graph, arguments.schedule, arguments.mel) if path])
    session, facts = read_graph(arguments.graph)
    generator = np.random.default_rng(arguments.seed).standard_normal
    if is_synthesis := "n_noises" in facts:
        if arguments.schedule or arguments.sampler:
            raise ValueError(f"{arguments.graph}: a whole synthesis, which has its own schedule and sampler (wanted: GRAPH MEL OUTPUT)")
    elif not arguments.schedule:
        raise ValueError(f"{arguments.graph}: one network call, which needs a noise schedule (wanted: GRAPH SCHEDULE MEL OUTPUT)")
    else:
        schedule = read_schedule(arguments.schedule, arguments.sampler)
    mel = read_mel(arguments.mel, facts["n_mels"])
    if mel.shape[1] < facts.get("fewest_frames", 1):
        raise ValueError(f"{arguments.mel}: {mel.shape[1]} frames (wanted by {arguments.graph}: {facts['fewest_frames']} or more)")
    try:
        with np.errstate(all="ignore"):  # what is not finite is found below
            if is_synthesis:
                waveform = run_synthesis(session, facts, mel, generator)
            else:
                waveform = run_steps(session, facts, mel, generator, *schedule)
    except Exception as error:
        raise ValueError(
            f"{arguments.graph}: fails for {mel.shape[1]} frames of {facts['hop_length']} samples ({type(error).__name__})"
        ) from None
    if not np.isfinite(waveform).all():
        raise ValueError(f"{arguments.mel}: the waveform holds NaN or infinity (wanted: other weights, another schedule or sampler)")
    write_wav(arguments.output, waveform, facts["sample_rate"])


def end(number, _):
    """Ends the command as an exception does, so that no temporary file stays."""
    raise SystemExit(128 + number)


def seed(text):
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"'{text[:60]}' (wanted: a whole number, 0 to {LARGEST_SEED})")
    return value


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())}\n")


def main():
    parser = Parser(description=__doc__ and __doc__.splitlines()[0])  # None under python -OO
    parser.add_argument("graph", help=".onnx file written by model.export")
    parser.add_argument("schedule", nargs="?", help="noise schedule, .json, for a graph of one network call")
    parser.add_argument("mel", help=".npy file, [n_mels, frames]")
    parser.add_argument("output", help=".wav file to write")
    parser.add_argument("--sampler", choices=SAMPLERS, help=f"(default: what the schedule was made for, or {DEFAULT_SAMPLER})")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the noise")
    arguments = parser.parse_intermixed_args()  # options may stand between the files
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, end)
    try:
        synthesize(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
