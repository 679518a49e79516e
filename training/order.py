"""Which recording the examples of a run are taken from, by their number; a pure function of the seed and that number."""

import numpy as np


class InTurn:
    """Every epoch runs through all recordings in an order of its own.

    Args:
        n_recordings: number of the recordings.
        seed: of the orders; a number, or several.
    """

    def __init__(self, n_recordings, seed):
        self.n_recordings, self.seed = n_recordings, seed if isinstance(seed, tuple) else (seed,)

    def __call__(self, number):
        epoch, place = divmod(number, self.n_recordings)
        return int(np.random.default_rng((*self.seed, epoch)).permutation(self.n_recordings)[place])


class EvenOverSpeakers:
    """Every round has one example of each speaker; the recordings of a speaker come in turn.

    Args:
        speakers: of each recording, the speaker's name.
        seed: of the orders.
    """

    def __init__(self, speakers, seed):
        self.seed = seed
        self.recordings_of = [[i for i, name in enumerate(speakers) if name == speaker] for speaker in sorted(set(speakers))]
        self.in_turn = [InTurn(len(of_speaker), (seed, 1 + k)) for k, of_speaker in enumerate(self.recordings_of)]

    def __call__(self, number):
        n_speakers = len(self.recordings_of)
        rounds, place = divmod(number, n_speakers)
        speaker = np.random.default_rng((self.seed, 0, rounds)).permutation(n_speakers)[place]
        return self.recordings_of[speaker][self.in_turn[speaker](rounds)]
