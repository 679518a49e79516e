"""A local page to listen with: a recording or a mel goes in, the waveform, both mels and the denoising come out. Needs gradio.

Each request has a vocoder call of its own and shares nothing but the weights, so several users do not mix.
"""

import functools
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from common.audio import AUDIO_SUFFIXES, Conversions, read_audio
from common.device import autocast
from common.errors import CommandParser, InputError, describe, positive_float, positive_int, run_command
from common.mel_plot import draw_mel, limits_of, mel_pair
from common.released import CHECKPOINT, ROOT, SCHEDULE
from model.mel import read_mel
from model.samplers import SAMPLERS
from vocoder import Vocoder

MOST_STATES = 8  # of the denoising, that are shown
OF_SCHEDULE = "that of the schedule"


def in_repository(folder, pattern):
    """Paths relative to the repository, for a menu."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern))


@functools.lru_cache(4)
def load(checkpoint, schedule, steps, sampler, gla_grad):
    """A vocoder, and the warnings about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown on the page
        return Vocoder.load(ROOT / checkpoint, str(ROOT / schedule), steps, sampler=sampler, gla_grad=gla_grad, device=None)


def read(path, vocoder, longest):
    """Recording `[T]`, or None for a mel file, and mel `[n_mels, frames]`.

    Raises:
        OSError, InputError: it cannot be used, or is longer than `longest` seconds.
    """
    config, recording = vocoder.mel_transform.config, None
    if Path(path).suffix.lower() in AUDIO_SUFFIXES:
        recording = read_audio(Path(path), config.sample_rate, Conversions(mix_to_mono=True, resample=True))
        seconds = len(recording) / config.sample_rate
    else:
        mel = read_mel(Path(path), config.n_mels)
        seconds = mel.shape[1] * config.hop_length / config.sample_rate
    if seconds > longest:
        raise InputError(f"{Path(path).name}: {seconds:.1f} s (expected at most {longest:g} s; longer files: sh runs/inference.sh)")
    return recording, mel if recording is None else vocoder.mel_transform(recording)


def states_figure(states, mel_transform, recording_mel):
    """Mels of states of the reverse process, (n, waveform `[T]`) each, from noise to the waveform."""
    places = np.unique(np.linspace(0, len(states) - 1, MOST_STATES).round().astype(int))
    figure = Figure(figsize=(8, 1.3 * len(places)), layout="constrained")
    for axis, (n, y) in zip(np.atleast_1d(figure.subplots(len(places), 1, sharex=True)), (states[place] for place in places)):
        draw_mel(axis, mel_transform(y), mel_transform.config, limits_of(recording_mel))
        axis.set_title(f"y_{n}", loc="left", fontsize=9)
        axis.label_outer()
    return figure


def synthesize(longest, recording, mel_file, checkpoint, schedule, steps, sampler, gla_grad, seed):
    """What the button does; returns the page's outputs."""
    import gradio as gr  # optional

    try:
        path = recording or mel_file
        if not path:
            raise InputError("there is no recording and no mel file (expected one of them)")
        sampler = None if sampler == OF_SCHEDULE else sampler
        vocoder = load(checkpoint, schedule, int(steps) or None, sampler, int(gla_grad))
        given, mel = read(path, vocoder, longest)
        states, generator = [], torch.Generator("cpu").manual_seed(int(seed))
        start = time.perf_counter()
        with autocast(vocoder.device, vocoder.dtype):
            waveform = vocoder.pipeline(
                mel[None].to(vocoder.device), generator, callback=lambda n, y: states.append((n, y[0].float().cpu()))
            )
        seconds = time.perf_counter() - start
    except (OSError, InputError) as error:
        raise gr.Error(describe(error)) from None
    result, config = waveform[0].float().cpu(), vocoder.mel_transform.config
    lines = [f"{seconds:.2f} s for {len(result) / config.sample_rate:.2f} s of audio. {vocoder!r}", *vocoder.warnings]
    lines += filter(None, [vocoder.diagnose(mel)])
    sounds = [None if y is None else (config.sample_rate, (y.clamp(-1, 1).numpy() * 32767).astype(np.int16)) for y in (given, result)]
    pair = mel_pair(mel, vocoder.mel_transform(result), config)
    return *sounds, pair, states_figure(states, vocoder.mel_transform, mel), "\n\n".join(lines)


def page(longest):
    """The page, a `gradio.Blocks`."""
    import gradio as gr

    with gr.Blocks(title="WaveGrad") as blocks:
        gr.Markdown(
            "# WaveGrad\nA recording, or a mel spectrogram of a text-to-speech model, goes in; its mel is turned into speech again."
        )
        with gr.Row():
            with gr.Column():
                recording = gr.Audio(type="filepath", label=f"Recording, up to {longest:g} s", elem_id="recording")
                mel_file = gr.File(label="or mel file (.npy, .pt)", file_types=[".npy", ".pt"], elem_id="mel")
                models, schedules = in_repository("checkpoints", "*.safetensors"), in_repository("schedules", "*.json")
                checkpoint = gr.Dropdown(models, value=CHECKPOINT.relative_to(ROOT).as_posix(), label="Model")
                schedule = gr.Dropdown(schedules, value=SCHEDULE.relative_to(ROOT).as_posix(), label="Noise schedule")
                with gr.Row():
                    steps = gr.Number(0, label="Steps (0: those of the schedule)", precision=0, minimum=0, maximum=1000)
                    sampler = gr.Dropdown([OF_SCHEDULE, *SAMPLERS], value=OF_SCHEDULE, label="Sampler")
                    gla_grad = gr.Number(0, label="GLA-Grad iterations", precision=0, minimum=0, maximum=64)
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                button = gr.Button("Synthesize", variant="primary", elem_id="go")
            with gr.Column():
                outputs = [
                    gr.Audio(label="Input", interactive=False),
                    gr.Audio(label="Output", interactive=False, elem_id="output"),
                    gr.Plot(label="Mels", show_label=False),
                    gr.Plot(label="From noise to the waveform", show_label=False),
                    gr.Markdown(elem_id="said"),
                ]
        inputs = [recording, mel_file, checkpoint, schedule, steps, sampler, gla_grad, seed]
        button.click(functools.partial(synthesize, longest), inputs, outputs, concurrency_limit=2)
    return blocks


def main():
    parser = CommandParser(description=__doc__)
    parser.add_argument("--port", type=positive_int, default=7860, help="of 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--longest", type=positive_float, default=30.0, help="seconds of a recording (default: %(default)g)")
    arguments = parser.parse_args()
    page(arguments.longest).launch(server_name="127.0.0.1", server_port=arguments.port, quiet=False)
    return 0


if __name__ == "__main__":
    run_command(main)
