"""The textbook form of a network, the reference of speed measurements."""

import torch

from common.errors import InputError
from model import layers
from model.network import WaveGrad


def textbook(network, config):
    """The network of a `Config` built of `model.layers`, with the weights, device and precision of `network`.

    Raises:
        InputError: it is causal, which `model.layers` is not.
    """
    if config.network.causal:
        raise InputError("a causal network has no textbook form (wanted: another variant than plain)")
    weights = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in network.state_dict().items()}
    weights = {name: tensor.squeeze(2) if tensor.ndim == 4 else tensor for name, tensor in weights.items()}  # [out, in, 1, taps]
    result = WaveGrad(config.network, config.mel.n_mels, network.prior, layers, network.estimate)
    result.load_state_dict(weights, assign=True)
    return result.train(network.training)
