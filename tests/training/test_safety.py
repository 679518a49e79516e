"""Divergence is seen and noise is not; signals are heeded, or ignored."""

import math
import os
import signal

import numpy as np
import pytest

from training.safety import LOSS_OF_SILENCE, WINDOW, StabilityGuard, StopSignal


def guard_after(losses, skip_limit=5, explosion_factor=3.0):
    guard = StabilityGuard(skip_limit, explosion_factor)
    return guard, [guard.observe(loss, math.isfinite(loss)) for loss in losses]


def test_guard_bears_noisy_losses():
    """Fails if a network that starts far from zero, or single large losses, which noise levels near 1 bring, count as an explosion."""
    rng = np.random.default_rng(0)
    beginning = np.linspace(20, 0.2, 500)
    guard, said = guard_after([*beginning, *rng.lognormal(-2, 0.8, 2000), 50.0, 60.0, *rng.lognormal(-2, 0.8, 100)])
    assert set(said) == {None} and guard.calm


@pytest.mark.parametrize("before", [[0.1] * 200, []], ids=["after training", "from the start"])
def test_guard_sees_an_explosion(before):
    """Within the window, and the moment before does not count as calm."""
    guard, said = guard_after([*before, LOSS_OF_SILENCE, *[40.0] * (WINDOW + 1)])
    assert "times its lowest value" in next(line for line in said if line)
    assert not guard.calm


def test_guard_sees_a_run_of_skipped_updates():
    _, said = guard_after([0.5, math.nan, math.nan, 0.5, *[math.nan] * 5])
    assert [line is not None for line in said] == [False] * 8 + [True]


def test_guard_resumes():
    """A resumed guard judges as one that was never interrupted."""
    guard, _ = guard_after(np.linspace(1, 0.1, 70))
    other = StabilityGuard(5, 3.0)
    other.load_state_dict(guard.state_dict())
    for loss in [math.nan, *np.linspace(0.1, 2, 80)]:
        assert guard.observe(loss, math.isfinite(loss)) == other.observe(loss, math.isfinite(loss))


def test_ignored_signal_stays_ignored():
    """Fails if a run under nohup ends with the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop_signal:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_signal.check() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_signal.check() == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
