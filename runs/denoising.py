"""Draws the denoising of a mel, waveform above and mel below, as `generated_samples/denoising.gif`; `sh runs/samples.sh` calls this."""

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from common.errors import CommandParser, run_command
from common.files import save_atomically
from common.mel_plot import draw_mel, limits_of
from common.released import ROOT
from model.mel import read_mel
from vocoder import Vocoder

OUTPUT = ROOT / "generated_samples" / "denoising.gif"


def main():
    CommandParser(description=__doc__).parse_args()
    vocoder = Vocoder.load(ROOT / "checkpoints" / "small-16k.safetensors", ROOT / "schedules" / "small-16k-6.json")
    mel_config, frames = vocoder.config.mel, []
    mel = read_mel(ROOT / "generated_samples" / "recordings" / "ru_0836.npy", mel_config.n_mels)
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    canvas, (above, below) = FigureCanvasAgg(figure), figure.subplots(2)

    def draw(n, y):
        above.clear()
        above.plot(y[0], linewidth=0.4)
        above.set(title=f"{n} steps to go", xlim=(0, len(y[0])), xticks=[], ylim=(-1.5, 1.5))
        draw_mel(below, vocoder.mel_transform(y[0]), mel_config, limits_of(mel))
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64))

    vocoder.pipeline(mel[None], torch.Generator().manual_seed(0), callback=draw)
    options = {"format": "GIF", "save_all": True, "append_images": frames[1:], "duration": 500, "loop": 0}
    save_atomically(lambda temporary: frames[0].save(temporary, **options), OUTPUT)
    print(OUTPUT)
    return 0


if __name__ == "__main__":
    run_command(main)
