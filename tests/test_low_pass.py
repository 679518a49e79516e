"""The augmentation that empties the upper bands of training segments."""

import pytest
import torch

from common.errors import InputError
from model.config import load_config
from tests.test_training_pairs import write_pairs
from tests.training_fixtures import one_thread, write_run  # noqa: F401
from training.low_pass import low_pass, random_low_pass
from training.trainer import Trainer


def power(waveform):
    return torch.fft.rfft(waveform).abs().square()


def noise(n_samples=8001):
    return torch.randn(n_samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_samples", [8000, 8001])
def test_what_is_below_the_corner_stays_and_nothing_is_above(n_samples):
    y = noise(n_samples)
    before, after = power(y), power(low_pass(y, 0.5))
    n_lines = len(before)
    torch.testing.assert_close(after[: int(0.47 * n_lines)], before[: int(0.47 * n_lines)], rtol=1e-3, atol=1e-2)
    assert after[int(0.5 * n_lines) + 1 :].max() < 1e-9 * before.mean()


def test_corners_lie_between_a_quarter_of_the_highest_and_the_whole():
    """Fails if corners are all the same, or speech may lose everything."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        filtered = power(random_low_pass(noise(), 0.8, generator))
        shares.append((filtered > 1e-6 * filtered.max()).sum().item() / len(filtered))
    assert 0.19 < min(shares) < 0.25 and 0.75 < max(shares) < 0.81


def test_a_share_of_the_training_segments_is_filtered_and_none_of_validation(tmp_path):
    """Fails if the option changes the validation loss, segments that it does not filter, or the noise."""
    plain, some, every = (
        Trainer(load_config(write_run(tmp_path, mel__f_max=2000, data__low_pass_share=share)), tmp_path) for share in (0.0, 0.5, 1.0)
    )
    assert all(torch.equal(a, b) for n in range(8) for a, b in zip(plain.validation_examples[n], every.validation_examples[n]))
    assert all(torch.equal(plain.examples[n].noise, every.examples[n].noise) for n in range(8))
    pairs = [(plain.examples[n].segment, some.examples[n].segment) for n in range(40)]
    assert 8 < sum(torch.equal(a, b) for a, b in pairs) < 32
    for number in range(8):
        before, after = power(plain.examples[number].segment), power(every.examples[number].segment)
        assert after[len(after) // 2 + 1 :].max() < 1e-9 * before.max()  # mel.f_max is half of 4,000 Hz
        assert torch.equal(every.examples[number].segment, every.examples[number].segment)  # it is a function of the number


def test_mels_that_are_read_from_files_cannot_be_filtered(tmp_path):
    write_run(tmp_path, data__low_pass_share=0.5)
    config = write_pairs(tmp_path)
    with pytest.raises(InputError, match=r"data.low_pass_share is 0.5, but .* \(wanted: 0\)"):
        Trainer(config, tmp_path)
