"""Weights of the two public WaveGrads of 2020, ivanvovk/WaveGrad and lmnt-com/wavegrad, under this project's names."""

import re

import torch

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
    (r"nn\.dblocks\.(\d+)\.main_branch\.1\.convolution\.conv1d", r"dblocks.\1.convs.0"),
    (r"nn\.dblocks\.(\d+)\.main_branch\.2\.convolution\.conv1d", r"dblocks.\1.convs.1"),
    (r"nn\.dblocks\.(\d+)\.main_branch\.3\.convolution\.conv1d", r"dblocks.\1.convs.2"),
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
    (r"film\.(\d+)\.output_conv", r"films.\1.shift_scale"),
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
    result = {}
    for name, tensor in _renamed(weights, LMNT_NAMES).items():
        if ".shift_scale." in name:
            shift, scale = tensor.chunk(2)
            name, tensor = name.replace(".shift_scale.", ".scale_shift."), torch.cat([scale, shift])
        result[name] = tensor
    return result
