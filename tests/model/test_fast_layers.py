"""Each fast layer computes what its textbook form computes, with the same gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import fast_layers, layers


def compare(name, x, *arguments, **options):
    """Compares the outputs of both forms of a layer, and their gradients with respect to `x` `[B, C, T]`, the weight and the bias."""
    fast, textbook = getattr(fast_layers, name)(*arguments, **options), getattr(layers, name)(*arguments, **options)
    torch.nn.init.normal_(fast.bias)
    textbook.load_state_dict({"weight": fast.weight.squeeze(2), "bias": fast.bias})
    results, weights = [], None
    for module, forms in ((fast, fast_layers), (textbook, layers)):
        own_x = x.clone().requires_grad_()
        y = forms.from_signal(module(forms.to_signal(own_x)))
        weights = torch.randn(y.shape) if weights is None else weights
        gradients = torch.autograd.grad((weights * y).sum(), [own_x, module.weight, module.bias])
        results.append([y, gradients[0], gradients[1].view(textbook.weight.shape), gradients[2]])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel_size, dilation", [(1, 1), (3, 1), (3, 8), (5, 1)])
def test_convolution(kernel_size, dilation):
    compare("Conv1d", torch.randn(2, 3, 20), 3, 4, kernel_size, dilation)


@settings(max_examples=30)
@given(
    factor=st.integers(1, 6),
    length=st.integers(1, 9),
    mode=st.sampled_from(["linear", "nearest"]),
    dilation=st.integers(1, 2),
    kernel_size=st.sampled_from([1, 3]),
)
def test_upsampled_convolution(factor, length, mode, dilation, kernel_size):
    """Fails if the sums of three matrices differ at an end, in a batch, or in their gradients."""
    torch.manual_seed(factor)
    compare("UpsampledConv1d", torch.randn(2, 3, length), 3, 2, factor, kernel_size, dilation, mode)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("name", ["upsample", "downsample"])
def test_resampling(name, factor, mode):
    x = torch.randn(2, 3, 60)
    found = fast_layers.from_signal(getattr(fast_layers, name)(fast_layers.to_signal(x), factor, mode))
    torch.testing.assert_close(found, getattr(layers, name)(x, factor, mode))


def test_noise_level_encoding():
    noise_level = torch.rand(3, dtype=torch.float64)
    found, wanted = (forms.from_signal(forms.NoiseLevelEncoding(8)(noise_level)) for forms in (fast_layers, layers))
    assert found.shape == (3, 8, 1) and torch.equal(found, wanted)
