"""`benchmark.py animation`: a picture that moves from noise to speech, one frame for each denoising step."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from benchmarking.tools.tables import check_output
from common.audio import read_audio
from common.errors import InputError, naming, positive_float, positive_int, seed_int
from common.files import save_atomically
from common.mel_plot import draw_mel, limits_of
from model.checkpoint import load_network
from model.mel.transform import LogMelSpectrogram
from model.sampler import SAMPLERS, find_sampler, sampler_name
from model.schedule_text import FORMS, find_schedule, split_text

MOST_FRAMES = 50  # of a schedule with more steps, as many are shown, evenly spaced
REST = 4  # the result is shown for as many frames


def denoising_states(network, mel, schedule, sampler, seed=0):
    """[(steps to go, waveform `[T]`)] from noise to speech, for a mel `[n_mels, frames]`."""
    states = []
    generator = torch.Generator().manual_seed(seed)
    find_sampler(sampler)(network, mel[None], schedule, generator, callback=lambda n, y: states.append((n, y[0].clone())))
    shown = np.unique(np.linspace(0, len(states) - 1, min(len(states), MOST_FRAMES)).round().astype(int))
    return [states[i] for i in shown]


def draw(states, recording_mel, mel_transform, path, frames_per_second):
    """Writes the animation, a GIF: waveform above, mel below, in the colours of the recording's mel."""
    figure = Figure(figsize=(7, 3.6), dpi=80, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    sample_rate = mel_transform.config.sample_rate

    def draw_state(k):
        n, y = states[min(k, len(states) - 1)]
        for axes in (above, below):
            axes.clear()
        above.plot(np.arange(len(y)) / sample_rate, y.numpy(), linewidth=0.3)
        above.set(ylim=(-1.5, 1.5), title=f"{n} steps to go" if n else "done")
        draw_mel(below, mel_transform(y.clamp(-1, 1)), mel_transform.config, limits_of(recording_mel))
        above.label_outer()

    animation = FuncAnimation(figure, draw_state, frames=len(states) + REST)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "animation.gif"  # the writer goes by the ending
        animation.save(drawn, PillowWriter(frames_per_second))
        save_atomically(lambda temporary: temporary.write_bytes(drawn.read_bytes()), path)


def add_arguments(parser):
    parser.add_argument("-ch", "--checkpoint", required=True, help="network to sample with")
    parser.add_argument("-ns", "--noise_schedule", required=True, help=f"noise schedule: {FORMS}")
    parser.add_argument("--steps", type=positive_int, metavar="N", help="follow the curve of the schedule in N steps")
    parser.add_argument("-r", "--recording", required=True, help="recording whose mel is vocoded")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, .gif")
    parser.add_argument("--sampler", help=f"one of {', '.join(SAMPLERS)} (default: what the schedule was made for)")
    parser.add_argument("--seed", type=seed_int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--frames_per_second", type=positive_float, default=2, help="(default: %(default)s)")


def run(arguments):
    if arguments.output.suffix != ".gif":
        raise InputError(f"{arguments.output}: an animation file ends in .gif")
    check_output(arguments.output, [arguments.checkpoint, split_text(arguments.noise_schedule)[0], arguments.recording])
    schedule = find_schedule(arguments.noise_schedule, arguments.steps)
    network, config = load_network(arguments.checkpoint)
    mel_transform = LogMelSpectrogram(config.mel)
    recording = read_audio(arguments.recording, config.mel.sample_rate)
    with naming(arguments.recording):
        recording_mel = mel_transform(recording)
    states = denoising_states(network, recording_mel, schedule, sampler_name(schedule, arguments.sampler), arguments.seed)
    draw(states, recording_mel, mel_transform, arguments.output, arguments.frames_per_second)
    print(arguments.output)
    return 0
