"""An example depends on its number and the seed alone: which recording, which segment, which noise, which filter."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.training_fixtures import new_trainer, write_run
from training.examples import EpochShuffle, EvenOverSpeakers, batch_numbers, low_pass, random_low_pass

SPEAKERS = ["anna"] * 12 + ["bert"] + ["carla"] * 3


def test_every_epoch_has_each_recording_once_in_an_order_of_its_own():
    order = EpochShuffle(16, 0)
    epochs = [[order(16 * epoch + place) for place in range(16)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [EpochShuffle(16, 1)(number) for number in range(16)] != epochs[0]


def test_each_speaker_comes_once_in_each_round():
    """Fails if the speaker with most recordings is heard most, or some of their recordings never."""
    order = EvenOverSpeakers(SPEAKERS, 0)
    drawn = [order(number) for number in range(3 * 24)]
    rounds = [tuple(SPEAKERS[recording] for recording in drawn[i : i + 3]) for i in range(0, len(drawn), 3)]
    assert {tuple(sorted(speakers)) for speakers in rounds} == {("anna", "bert", "carla")} and len(set(rounds)) > 1
    assert Counter(drawn) == {**dict.fromkeys(range(12), 2), 12: 24, **dict.fromkeys(range(13, 16), 8)}
    assert [EvenOverSpeakers(SPEAKERS, 0)(number) for number in range(72)] == drawn
    assert [EvenOverSpeakers(SPEAKERS, 1)(number) for number in range(72)] != drawn


@pytest.mark.parametrize("batch_size, world_size", [(4, 2), (5, 2), (7, 3), (256, 10)])
def test_shares_make_up_the_batch(batch_size, world_size):
    """Fails if an example is drawn twice or never."""
    shares = [batch_numbers(100, 3, batch_size, rank, world_size) for rank in range(world_size)]
    for batch, parts in enumerate(zip(*shares)):
        numbers = [number for part in parts for number in part]
        assert numbers == list(range(100 + batch * batch_size, 100 + (batch + 1) * batch_size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_same_example_is_the_same_everywhere(tmp_path):
    """Fails if it depends on what was drawn before, or comes again in the next epoch."""
    data = [new_trainer(write_run(tmp_path)).data for _ in range(2)]
    examples, again = (one.examples(one.config.data) for one in data)
    examples[3], np.random.rand(), torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(examples[17], again[17]))
    assert not torch.equal(examples[17].noise, examples[18].noise)
    first_epoch, second_epoch = (sorted(examples[epoch * 6 + i].noise_level.item() for i in range(6)) for epoch in (0, 1))
    assert first_epoch != second_epoch


def power(waveform):
    return torch.fft.rfft(waveform).abs().square()


def white_noise(n_samples=8001):
    return torch.randn(n_samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_samples", [8000, 8001])
def test_what_is_below_the_corner_stays_and_nothing_is_above(n_samples):
    y = white_noise(n_samples)
    before, after = power(y), power(low_pass(y, 0.5))
    below, above = int(0.47 * len(before)), int(0.5 * len(before)) + 1
    torch.testing.assert_close(after[:below], before[:below], rtol=1e-3, atol=1e-2)
    assert after[above:].max() < 1e-9 * before.mean()


def test_corners_lie_between_a_quarter_of_the_highest_and_the_whole():
    """Fails if corners are all the same, or speech may lose everything."""
    generator, shares = torch.Generator().manual_seed(0), []
    for _ in range(200):
        filtered = power(random_low_pass(white_noise(), 0.8, generator))
        shares.append((filtered > 1e-6 * filtered.max()).sum().item() / len(filtered))
    assert 0.19 < min(shares) < 0.25 and 0.75 < max(shares) < 0.81


def test_a_share_of_the_training_segments_is_filtered_and_none_of_validation(tmp_path):
    """Fails if the option changes the validation loss, segments that it does not filter, or the noise."""
    trainers = [new_trainer(write_run(tmp_path, mel__f_max=2000, data__low_pass_share=share)) for share in (0.0, 0.5, 1.0)]
    validation = [trainer.data.validation_examples for trainer in trainers]
    plain, some, every = (trainer.data.examples(trainer.config.data) for trainer in trainers)
    assert all(torch.equal(a, b) for n in range(8) for a, b in zip(validation[0][n], validation[2][n]))
    assert all(torch.equal(plain[n].noise, every[n].noise) for n in range(8))
    assert 8 < sum(torch.equal(plain[n].segment, some[n].segment) for n in range(40)) < 32
    for n in range(8):
        before, after = power(plain[n].segment), power(every[n].segment)
        assert after[len(after) // 2 + 1 :].max() < 1e-9 * before.max()  # mel.f_max is half of 4,000 Hz
        assert torch.equal(every[n].segment, every[n].segment)  # it is a function of the number
