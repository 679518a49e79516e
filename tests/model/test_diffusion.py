"""The forward process and the loss, against golden tensors and against the paper's definitions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.diffusion import add_noise, diffusion_loss, sample_noise_level
from model.noise_schedule import linear
from tests.conftest import golden

SCHEDULE = linear(1000, 1e-6, 0.01)


def test_add_noise_agrees_with_ivanvovk():
    tensors = golden("ivanvovk_tiny.pt")
    y_n = add_noise(tensors["y_0"], tensors["eps_target"], tensors["noise_level"][:, 0])
    torch.testing.assert_close(y_n, tensors["y_noisy"], atol=1e-5, rtol=0)


def test_loss_agrees_with_ivanvovk():
    tensors = golden("ivanvovk_tiny.pt")
    noise_level = tensors["noise_level"][:, 0]

    def network(y_n, mel, level):
        torch.testing.assert_close(y_n, tensors["y_noisy"], atol=1e-5, rtol=0)
        assert level is noise_level
        return torch.zeros_like(y_n)

    losses = diffusion_loss(network, tensors["y_0"], tensors["mels"], noise_level, tensors["eps_target"])
    torch.testing.assert_close(losses, tensors["eps_target"].abs().mean(1))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_add_noise_keeps_unit_variance(level, seed):
    generator = torch.Generator().manual_seed(seed)
    y_0, noise = torch.randn(2, 1, 20_000, generator=generator)
    variance = add_noise(y_0, noise, torch.tensor([level])).var().item()
    assert abs(variance - 1) < 0.08


def test_noise_levels_are_drawn_hierarchically():
    levels = sample_noise_level(SCHEDULE, 200_000, torch.Generator().manual_seed(0)).double()
    assert levels.max() <= 1 and levels.min() >= SCHEDULE.noise_levels[-1]
    # Each of the S intervals is as likely as any other, however narrow it is.
    edges = torch.tensor([*SCHEDULE.noise_levels[::-1], 1.0])
    counts = torch.histogram(levels, edges).hist
    assert counts.min() > 100 and counts.max() < 320  # 200 expected
    # Inside an interval, levels are uniform: the widest is split in the middle.
    widest = (edges[1:] - edges[:-1]).argmax()
    inside = levels[(levels > edges[widest]) & (levels < edges[widest + 1])]
    assert abs((inside > (edges[widest] + edges[widest + 1]) / 2).double().mean() - 0.5) < 0.15


def test_noise_levels_come_from_the_generator():
    first, second = (sample_noise_level(SCHEDULE, 8, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.unique().numel() == 8
