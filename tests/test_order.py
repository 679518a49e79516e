"""Which recording an example is taken from depends on its number and the seed alone."""

from collections import Counter

from training.order import EvenOverSpeakers, InTurn

SPEAKERS = ["anna"] * 12 + ["bert"] + ["carla"] * 3


def test_every_epoch_has_each_recording_once_in_an_order_of_its_own():
    order = InTurn(16, 0)
    epochs = [[order(16 * epoch + place) for place in range(16)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [InTurn(16, 1)(number) for number in range(16)] != epochs[0]


def test_each_speaker_comes_once_in_each_round():
    """Fails if the speaker with most recordings is heard most, or some of their recordings never."""
    order = EvenOverSpeakers(SPEAKERS, 0)
    drawn = [order(number) for number in range(3 * 24)]
    for i in range(0, len(drawn), 3):
        assert {SPEAKERS[recording] for recording in drawn[i : i + 3]} == {"anna", "bert", "carla"}
    assert Counter(drawn) == {**dict.fromkeys(range(12), 2), 12: 24, **dict.fromkeys(range(13, 16), 8)}
    assert len({tuple(SPEAKERS[r] for r in drawn[i : i + 3]) for i in range(0, len(drawn), 3)}) > 1
    assert [EvenOverSpeakers(SPEAKERS, 0)(number) for number in range(72)] == drawn
    assert [EvenOverSpeakers(SPEAKERS, 1)(number) for number in range(72)] != drawn
