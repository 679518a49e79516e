"""What the objective of InferGrad finds far, and what near; with what both of its distances have in common."""

import math

import pytest
import torch

from extensions.infer_grad.pmsqe import PMSQE
from extensions.infer_grad.spectral_distance import SpectralDistance, multi_resolution_stft_distance

SAMPLE_RATE, N_SAMPLES = 16000, 4800
TIME = torch.arange(N_SAMPLES) / SAMPLE_RATE


@pytest.fixture(scope="module")
def distance():
    return SpectralDistance(SAMPLE_RATE)


def harmonics(seed=0):
    """`[1, T]`: the first 30 harmonics of 120 Hz, falling by 6 dB an octave, in a little noise."""
    generator = torch.Generator().manual_seed(seed)
    voice = sum(torch.sin(2 * torch.pi * 120 * k * TIME) / k for k in range(1, 31))
    return (0.1 * voice + 1e-3 * torch.randn(N_SAMPLES, generator=generator))[None]


def tone(frequency, amplitude=0.02):
    return amplitude * torch.sin(2 * torch.pi * frequency * TIME)


def noise(amplitude):
    return amplitude * torch.randn(1, N_SAMPLES, generator=torch.Generator().manual_seed(1))


def test_is_zero_for_the_recording_itself_and_blind_to_its_sign(distance):
    y = harmonics()
    assert distance(y, y).item() == 0
    assert distance(y, -y).item() < 1e-5


def test_grows_with_the_error(distance):
    y = harmonics()
    distances = [distance(y, y + noise(amplitude)).item() for amplitude in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert distances == sorted(distances) and distances[0] > 0


def other_phases():
    """The sum of `harmonics` at random phases."""
    phases = 6 * torch.rand(30, generator=torch.Generator().manual_seed(0))
    return 0.1 * sum(torch.sin(2 * torch.pi * 120 * k * TIME + phases[k - 1]) / k for k in range(1, 31))[None]


VOICE = 0.1 * sum(torch.sin(2 * torch.pi * 120 * k * TIME) / k for k in range(1, 11))[None]
NOISY = harmonics() + noise(0.02)
FURTHER = {  # reference, what is further from it, what is nearer, and how many times
    "lines count by how they are heard: a tone at 300 Hz for more than at 6 kHz": (NOISY, NOISY + tone(300), NOISY + tone(6000), 1.2),
    "noise in empty bands, 65 dB below the voice, is not near": (VOICE, VOICE + noise(5e-5), 1.1 * VOICE, 4),
    "short windows tell the phases of harmonics": (harmonics(), other_phases(), harmonics().roll(40), 2),
}


@pytest.mark.parametrize("reference, further, nearer, factor", FURTHER.values(), ids=FURTHER)
def test_what_is_heard_more_counts_for_more(distance, reference, further, nearer, factor):
    assert distance(reference, further).item() > factor * distance(reference, nearer).item()


BOTH = pytest.mark.parametrize("kind", [SpectralDistance, PMSQE])


@BOTH
def test_each_of_a_batch_alone(kind):
    distance = kind(SAMPLE_RATE)
    a, b = torch.cat([harmonics(0), harmonics(1)]), torch.cat([harmonics(2), 0.5 * harmonics(3)])
    together = distance(a, b)
    assert together.shape == (2,)
    torch.testing.assert_close(together, torch.cat([distance(a[i : i + 1], b[i : i + 1]) for i in range(2)]))


@pytest.mark.parametrize("reference, generated", [(0.0, 0.0), (0.0, 0.1), (0.1, 0.0)])
@BOTH
def test_silence_has_finite_gradients(kind, reference, generated):
    """Fails if a logarithm, a root or a ratio is not kept from zero."""
    generated = (generated * harmonics()).requires_grad_()
    kind(SAMPLE_RATE)(reference * harmonics(), generated).sum().backward()
    assert generated.grad.isfinite().all()


def test_silence_weighs_no_more_than_the_softest_recording(distance):
    """Fails if an error is divided by the energy of silence: its gradient is then hundreds of times that of speech."""
    norms = []
    for reference in (torch.zeros(1, N_SAMPLES), torch.randint(-1, 2, (1, N_SAMPLES), generator=torch.Generator().manual_seed(0)) / 32768):
        generated = (0.01 * harmonics(1)).requires_grad_()
        distance(reference, generated).sum().backward()
        norms.append(generated.grad.norm().item())
    assert norms[0] < 2 * norms[1]


def test_stft_distance_of_twice_the_amplitude():
    """Fails if a term or a resolution counts otherwise: spectral convergence |2 - 1| / 1, and ln 2 in every bin."""
    assert multi_resolution_stft_distance(noise(1), noise(2)).item() == pytest.approx(1 + math.log(2), abs=1e-4)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 24000])
def test_other_sample_rates(sample_rate):
    a, b = harmonics(), harmonics(1)
    assert SpectralDistance(sample_rate)(a, b).isfinite().all()
