"""The waveform as several signals of a lower rate, for a network that works at that rate; `network.phases` in the configuration.

The rearrangement is orthonormal: white noise stays white, so diffusion, schedules and samplers are the same with and without it.
With one phase, as in WaveGrad's own network, it changes no value.
"""


def split(y, n_phases):
    """`[B, T]` -> `[B, n_phases, T / n_phases]`: the k-th signal holds the samples k, k + n_phases, k + 2 n_phases, ..."""
    return y.unflatten(-1, (-1, n_phases)).transpose(1, 2)


def merge(signals):
    """The inverse of `split`: `[B, n_phases, T / n_phases]` -> `[B, T]`."""
    return signals.transpose(1, 2).flatten(1)
