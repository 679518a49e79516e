"""A synthesis by the paper's sampler follows the golden trajectory, and its parts come in their order."""

import torch

from extensions.interop.published import load_published
from extensions.registry import make_network
from model.noise_schedule import NoiseSchedule, linear
from model.pipeline import Part, Pipeline, StandardNormalPrior
from tests.conftest import golden
from tests.oracles import HOP_LENGTH, Oracle


def test_follows_the_exact_trajectory():
    tensors, states = golden("ivanvovk_tiny.pt"), {}
    weights, config = load_published(tensors["state_dict"], "ivanvovk_tiny.pt")
    network = make_network(config).eval()
    network.load_state_dict(weights)
    pipeline = Pipeline(network, NoiseSchedule(tensors["betas"].numpy()))
    result = pipeline(tensors["mels"], noises=tensors["sampling_noises"], callback=states.__setitem__)
    trajectory = torch.stack([states[n] for n in sorted(states, reverse=True)])
    torch.testing.assert_close(trajectory, tensors["sampling_states_exact"], atol=1e-4, rtol=0)
    assert torch.equal(result, states[0])


def test_the_network_is_told_the_noise_level_of_each_step():
    schedule, told = linear(6, 1e-4, 0.5), []

    class Listener:
        hop_length = HOP_LENGTH

        def __call__(self, y_n, mel, noise_level):
            told.append(noise_level)
            return torch.zeros_like(y_n)

    Pipeline(Listener(), schedule)(torch.zeros(3, 4, 2))
    assert [level.shape for level in told] == [(3,)] * 6
    torch.testing.assert_close(torch.stack(told)[:, 0], torch.tensor(schedule.noise_levels[::-1].copy()))


def test_the_parts_come_in_their_order():
    """Fails if a part is left out, comes at another place, or if the start is not on the scale of its noise level."""
    seen, y_0 = [], torch.full((1, 2 * HOP_LENGTH), 0.5)

    def part(name, value):
        return Part(lambda y, mel: seen.append((name, y.mean().item())) or torch.full_like(y, value), 0)

    class Halving(StandardNormalPrior):
        def whiten(self, y, mel):
            return y / 2

        def unwhiten(self, z, mel):
            return 2 * z

        def limit(self, mel):
            return 0.25

    schedule = NoiseSchedule([0.19])
    pipeline = Pipeline(Oracle(y_0), schedule, None, Halving(), part("start", 0.8), part("correction", 0.1))
    mel, noises, states = torch.zeros(1, 3, 2), [torch.full_like(y_0, 3.0)], []
    before, after = pipeline.results(mel, noises, lambda n, y: states.append((n, round(y.mean().item(), 6))))
    assert states == [(1, 0.72), (0, 0.5)]  # 2 * 0.9 * (0.8 / 2), and twice the limit
    assert seen == [("start", 3.0), ("correction", 0.5)]
    assert before.mean() == 0.5 and torch.equal(after, torch.full_like(y_0, 0.1)) and torch.equal(pipeline(mel, noises=noises), after)
