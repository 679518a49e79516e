"""Pictures of mels: where a sound is seen, and in which colours."""

from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from common.mel_plot import draw_mel, mel_pair


@pytest.fixture
def mel():
    """One loud band, the third from the bottom, in the last of 50 frames."""
    mel = torch.full((20, 50), -5.0)
    mel[2, 49] = 1.0
    return mel


def test_time_is_in_seconds_and_low_bands_are_at_the_bottom(mel, tiny_config):
    axes = Figure().subplots()
    image = draw_mel(axes, mel, tiny_config.mel)
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 0.25), (0, 20))  # 50 frames of 40 samples at 8 kHz
    x, y = axes.transData.transform((0.2475, 2.5))
    assert image.get_cursor_data(SimpleNamespace(x=x, y=y)) == 1.0
    assert image.get_clim() == (-5, 1)


def test_a_result_has_the_colours_of_its_recording(mel, tiny_config):
    """Fails if a result that is too quiet looks as loud as its recording."""
    figure = mel_pair(mel, mel - 2, tiny_config.mel)
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [(-5, 1), (-5, 1)]
    mel_pair(torch.zeros(20, 50), mel * torch.nan, tiny_config.mel).canvas.draw()  # silence, and nothing at all
