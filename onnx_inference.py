"""Synthesises with onnxruntime and NumPy, without PyTorch: `python onnx_inference.py GRAPH.onnx MEL.npy OUT.wav`.

GRAPH.onnx is written by `python -m extensions.onnx.export`. Beside this file it needs `common/errors.py` and `common/files.py`.
"""

import os

import numpy as np
import soundfile

from common.errors import CommandParser, InputError, run_command, seed_int
from common.files import check_not_input, check_regular, reading, save_atomically

FACTS = ("sample_rate", "hop_length", "n_mels", "n_noises", "fewest_frames")


def read_graph(path):
    """The session of a graph, and the whole numbers of its metadata by name.

    Raises:
        OSError, InputError: it cannot be read, or is no such graph.
    """
    import onnxruntime  # optional

    check_regular(path)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        facts = {key: int(metadata[key]) for key in FACTS}
        if min(facts.values()) < 1 or session.get_inputs()[0].shape[1] != facts["n_mels"]:
            raise ValueError
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise InputError(f"{path}: not a whole synthesis written by extensions.onnx.export ({type(error).__name__})") from None
    return session, facts


def read_mel(path, n_mels, fewest_frames):
    """A mel `[n_mels, frames]`, float32.

    Raises:
        OSError, InputError: it cannot be read, or is no mel for the graph.
    """
    with reading(path, "a NumPy array of numbers (.npy)"), open(path, "rb") as file:
        mel = np.lib.format.read_array(file, allow_pickle=False)
        if mel.dtype.kind not in "fiu":
            raise InputError(f"{path}: holds {mel.dtype} (expected: real numbers)")
        mel = mel[0] if mel.ndim == 3 and len(mel) == 1 else mel
        mel = mel.astype(np.float32)
    if mel.ndim != 2 or mel.shape[0] != n_mels or mel.shape[1] < fewest_frames or not np.isfinite(mel).all():
        raise InputError(f"{path}: shape {list(mel.shape)} (expected: [{n_mels}, {fewest_frames} frames or more], finite)")
    return mel


def main(argv=None):
    parser = CommandParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("graph", help=".onnx file written by extensions.onnx.export")
    parser.add_argument("mel", help=".npy file, [n_mels, frames]")
    parser.add_argument("output", help=".wav file to write")
    parser.add_argument("--seed", type=seed_int, default=0, help="seed of the noise")
    arguments = parser.parse_intermixed_args(argv)
    check_not_input(arguments.output, [arguments.graph, arguments.mel])
    if not os.path.isdir(os.path.dirname(arguments.output) or "."):
        raise FileNotFoundError(2, "No such folder", os.path.dirname(arguments.output))
    session, facts = read_graph(arguments.graph)
    mel = read_mel(arguments.mel, facts["n_mels"], facts["fewest_frames"])
    shape = (1, facts["n_noises"], mel.shape[1] * facts["hop_length"])
    noise = np.random.default_rng(arguments.seed).standard_normal(shape).astype(np.float32)
    try:
        [[waveform]] = session.run(None, {"mel": mel[None], "noise": noise})
    except Exception as error:
        raise InputError(f"{arguments.graph}: fails for {mel.shape[1]} frames ({type(error).__name__})") from None
    if not np.isfinite(waveform).all():
        raise InputError(f"{arguments.mel}: the waveform holds NaN or infinity (expected: other weights, another schedule or sampler)")
    samples = np.round(waveform.clip(-1, 1) * 32767).astype(np.int16)
    save_atomically(lambda path: soundfile.write(path, samples, facts["sample_rate"], subtype="PCM_16", format="WAV"), arguments.output)
    return 0


if __name__ == "__main__":
    run_command(main)
