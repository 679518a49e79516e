"""Weights of the two public WaveGrads of 2020, ivanvovk/WaveGrad and lmnt-com/wavegrad, under this project's names."""

import re
from collections import Counter

import torch

from common.errors import InputError
from common.released import ROOT
from common.validation import validating
from extensions.interop.presets import preset
from model.config import Config, NetworkConfig, load_config

# Their name -> ours, tried in order; the first that matches the beginning of a name's module path is used.
IVANVOVK_NAMES = [
    (r"nn\.ublock_preconv\.conv1d", r"mel_conv"),
    (r"nn\.ublock_postconv\.conv1d", r"output_conv"),
    (r"nn\.dblock_preconv\.conv1d", r"waveform_conv"),
    (r"nn\.ublocks\.(\d+)\.first_block_main_branch\.upsampling\.2\.conv1d", r"ublocks.\1.convs.0"),
    (r"nn\.ublocks\.(\d+)\.first_block_main_branch\.modulation\.convolution\.conv1d", r"ublocks.\1.convs.1"),
    (r"nn\.ublocks\.(\d+)\.second_block_main_branch\.modulation_0\.convolution\.conv1d", r"ublocks.\1.convs.2"),
    (r"nn\.ublocks\.(\d+)\.second_block_main_branch\.modulation_1\.convolution\.conv1d", r"ublocks.\1.convs.3"),
    (r"nn\.ublocks\.(\d+)\.first_block_residual_branch\.0\.conv1d", r"ublocks.\1.residual"),
    # The first of a main branch's parts is the downsampling; a convolution for each dilation follows.
    (r"nn\.dblocks\.(\d+)\.main_branch\.(\d+)\.convolution\.conv1d", lambda match: f"dblocks.{match[1]}.convs.{int(match[2]) - 1}"),
    (r"nn\.dblocks\.(\d+)\.residual_branch\.0\.conv1d", r"dblocks.\1.residual"),
    (r"nn\.films\.(\d+)\.signal_conv\.0\.conv1d", r"films.\1.conv"),
    (r"nn\.films\.(\d+)\.scale_conv\.conv1d", r"films.\1.scale"),
    (r"nn\.films\.(\d+)\.shift_conv\.conv1d", r"films.\1.shift"),
]

LMNT_NAMES = [
    (r"first_conv", r"mel_conv"),
    (r"last_conv", r"output_conv"),
    (r"downsample\.0", r"waveform_conv"),
    (r"downsample\.(\d+)\.residual_dense", lambda match: f"dblocks.{int(match[1]) - 1}.residual"),
    (r"downsample\.(\d+)\.conv\.(\d)", lambda match: f"dblocks.{int(match[1]) - 1}.convs.{match[2]}"),
    (r"film\.(\d+)\.input_conv", r"films.\1.conv"),
    (r"film\.(\d+)\.output_conv", r"films.\1.scale_shift"),
    (r"upsample\.(\d+)\.block1", r"ublocks.\1.residual"),
    (r"upsample\.(\d+)\.block2\.(\d)", r"ublocks.\1.convs.\2"),
    (r"upsample\.(\d+)\.block3\.(\d)", lambda match: f"ublocks.{match[1]}.convs.{int(match[2]) + 2}"),
]


def _renamed(weights, names):
    """The weights under our module names; names that match nothing stay as they are, and will be reported as unknown."""
    result = {}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        for theirs, ours in names:
            if re.fullmatch(theirs, module):
                module = re.sub(theirs, ours, module)
                break
        result[f"{module}.{kind}"] = tensor[:, :, None] if tensor.ndim == 3 else tensor
    return result


def from_ivanvovk(weights):
    """State dict of ivanvovk/WaveGrad -> state dict of `WaveGrad`: scale and shift become one convolution."""
    weights = _renamed(weights, IVANVOVK_NAMES)
    for name in [name for name in weights if re.fullmatch(r"films\.\d+\.scale\.(weight|bias)", name)]:
        shift = name.replace(".scale.", ".shift.")
        if shift in weights:
            weights[name.replace(".scale.", ".scale_shift.")] = torch.cat([weights.pop(name), weights.pop(shift)])
    return weights


def from_lmnt(weights):
    """State dict of lmnt-com/wavegrad -> state dict of `WaveGrad`: the shift comes first there, the scale here."""
    weights = _renamed(weights, LMNT_NAMES)
    return {name: tensor.roll(len(tensor) // 2, 0) if ".scale_shift." in name else tensor for name, tensor in weights.items()}


# The weights do not show factors and dilations. Those of both projects are the paper's Base network, but for the order of the upsampling
# dilations: appendix A of the paper has 1, 2, 4, 8 in the first three UBlocks, both projects have it in the last three.
BASE_FACTORS = (5, 5, 3, 2, 2)
BASE_UPSAMPLING_DILATIONS = ((1, 2, 1, 2), (1, 2, 1, 2), (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8))
BASE_DOWNSAMPLING_DILATIONS = ((1, 2, 4),) * 4


def _state_dict(content):
    """The tensors of a published file by name, without the prefix that training on several devices adds."""
    weights = content.get("model", content) if isinstance(content, dict) else {}
    if not isinstance(weights, dict):
        return {}
    return {str(name).removeprefix("module."): value for name, value in weights.items() if torch.is_tensor(value)}


def load_published(content, path, config=None):
    """Reads a file of one of the two projects, which the names of its weights tell.

    Args:
        content: what the file holds: `{"model": state_dict, ...}` or the state dict itself.
        path: what to call it in a message.
        config: a `Config` whose factors, dilations and mel are used, because the weights do not show them; None takes those that the
            project has.

    Returns:
        weights under the names of `WaveGrad`, and their `Config`; None where it is of neither project.

    Raises:
        InputError: the shape of the network does not follow from the weights. Other errors in the weights are found by `load_strictly`.
    """
    weights = _state_dict(content)
    parts = {name.partition(".")[0] for name in weights}
    try:
        if any(name.startswith("nn.ublock") for name in weights):
            # The state dict holds tables of the noise schedule beside the network, which is `nn`.
            weights = from_ivanvovk({name: value for name, value in weights.items() if name.startswith("nn.")})
            mel, behaviour = preset("ivanvovk") if config is None else config.mel, {}
        elif {"film", "upsample"} <= parts:
            weights = from_lmnt(weights)
            mel, behaviour = _lmnt_mel(content, config), {"interpolation": "nearest", "noise_level_scale": 1.0}
        else:
            return None
    except (RuntimeError, ValueError, TypeError):
        raise InputError(f"{path}: weights of a FiLM have shapes that do not go together") from None
    network = _network_config(weights, path, config, behaviour)
    with validating(path):
        mel = mel.model_copy(update={"n_mels": _weight(weights, "mel_conv.weight", path).shape[1]})
        default = load_config(ROOT / "configs" / "default.json")  # the settings of the paper, for further training
        lists = {"train_filelist": "train.txt", "validation_filelist": "validation.txt"}
        changes = {"mel": mel, "network": network, "data": default.data.model_copy(update=lists)}
        return weights, Config.model_validate(dict(default) | changes)


def _weight(weights, name, path):
    if name not in weights:
        raise InputError(f"{path}: weight '{name}' is missing, so the shape of the network cannot be told")
    if weights[name].ndim != 4:
        raise InputError(f"{path}: weight '{name}' has {weights[name].ndim} axes (expected: that of a convolution)")
    return weights[name]


def _network_config(weights, path, config, behaviour):
    """The `NetworkConfig` that follows from the shapes of the weights; `behaviour` holds keys that do not show in them."""

    def channels(kind):
        """Output channels of the blocks of a kind, in order: for each block, the most frequent number among its weights."""
        blocks = {}
        for name, tensor in weights.items():
            if match := re.fullmatch(rf"{kind}\.(\d+)\..*weight", name):
                blocks.setdefault(int(match[1]), []).append(len(tensor) if tensor.ndim else 0)
        return tuple(Counter(blocks[number]).most_common(1)[0][0] for number in sorted(blocks))

    own = config.network if config is not None else None
    factors = own.factors if own else BASE_FACTORS
    upsampling = channels("ublocks")
    if len(upsampling) != len(factors):
        raise InputError(
            f"{path}: {len(upsampling)} UBlocks, but {len(factors)} factors {list(factors)} "
            "(expected: a configuration with the factors that it was trained with)"
        )
    with validating(path):
        return NetworkConfig(
            factors=factors,
            upsampling_preconv_channels=_weight(weights, "mel_conv.weight", path).shape[0],
            upsampling_channels=upsampling,
            upsampling_dilations=own.upsampling_dilations if own else BASE_UPSAMPLING_DILATIONS,
            downsampling_factors=own.downsampling_factors if own else None,
            downsampling_preconv_channels=_weight(weights, "waveform_conv.weight", path).shape[0],
            downsampling_channels=channels("dblocks"),
            downsampling_dilations=own.downsampling_dilations if own else BASE_DOWNSAMPLING_DILATIONS,
            **behaviour,
        )


def _lmnt_mel(content, config):
    """The `MelConfig` of lmnt, or of a configuration, with the sample rate that the file holds, if it holds one."""
    parameters = content.get("params")
    sample_rate = parameters.get("sample_rate") if isinstance(parameters, dict) else None
    mel = preset("lmnt") if config is None else config.mel
    if type(sample_rate) is not int:
        return mel
    return mel.model_copy(update={"sample_rate": sample_rate} | ({"f_max": sample_rate / 2} if config is None else {}))
