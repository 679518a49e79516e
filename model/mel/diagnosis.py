"""What looks wrong with a mel: its statistics are compared with those of the mels that the model was trained on.

A mel of another definition, converted to the model's, would have the statistics of the training. So each usual mistake is tried:
if the mel does not have these statistics, but has them after a conversion, the message names this mistake. Nothing is converted for
the caller.
"""

import itertools
import math

import torch

from model.mel.transform import RANGE_TOLERANCE, LogMelSpectrogram, compress, expand, log_unit

LOG_NAMES = {"ln": "natural log", "log10": "log10", "db": "decibels"}
FEWEST_FRAMES = 100  # a second; fewer may be all speech, or all pause
FEWEST_TOLD = 30  # of which a mistake can be told, if it is a clear one
# How far good mels may be from those of the training, in nepers of amplitude (1 = 8.7 dB): another loudness, another
# voice and microphone, and the ratio of the standard deviations over time, as its logarithm.
GAIN_TOLERANCE, PROFILE_TOLERANCE, SPREAD_TOLERANCE = 1.5, 0.8, 0.25
LARGEST_DISTANCE = 2.5  # of a mel that is taken for what it should be
CLEARLY_CLOSER = 0.85  # an explanation is believed below this share of the distance; of speech in noise it is .95 or more
OF_AN_IMPOSSIBLE_MEL = 0.6  # the same where values cannot be on the scale; any explanation is closer than none there
OF_A_SHORT_MEL = 0.5  # the same of less than a second, which may be unlike the average of the training
COST_OF_A_DIFFERENCE = 0.3  # of two explanations that fit as well, the one with fewer mistakes
NOISE_COST = 0.3  # of explaining a mel by noise that fills the pauses, which is no mistake
QUIET_QUANTILE = 0.1  # of the frames, in each band, are taken to be that noise
LOUD_QUANTILE, LOUD_DEVIATIONS = 0.95, 1.645  # noise leaves the loudest frames what they are; so much above the mean
TURNED_MARGIN = 0.3  # by how much more the frames resemble the mean of the bands than the bands do, correlation
LINEAR_PEAK = 8  # a spectrum has peaks this many times its mean, its logarithm has not
CLAMPED_SHARE = 0.02  # of the values being the smallest, exactly, when a clamp is what made them so
FLOOR_TOLERANCE = 0.1  # nepers


def diagnose(mel, definition, statistics=None):
    """Says what looks wrong with a mel, if anything does.

    Args:
        mel: `[n_mels, frames]`.
        definition: the model's `LogMelSpectrogram`.
        statistics: `MelStatistics` of the model's training; without them, only what is impossible is noticed.

    Returns:
        one line, or None.
    """
    found = _what_is_wrong(mel, definition, statistics)
    if found is None:
        return None
    config = definition.config  # another sample rate or hop could explain any deviation, and a mel does not show them
    return f"{found} (for {config.sample_rate:,} Hz, hop {config.hop_length}: a mel cannot tell its rate)"


def _what_is_wrong(mel, definition, statistics):
    n_mels = definition.config.n_mels
    if mel.ndim != 2 or mel.shape[0] != n_mels:
        if mel.ndim == 2 and mel.shape[1] == n_mels:
            return f"frames along the first axis: shape {list(mel.shape)}; the model expects [{n_mels}, frames]"
        bands = f"{mel.shape[0]} bands" if mel.ndim == 2 else f"shape {list(mel.shape)}"
        return f"{bands}; the model expects {n_mels} bands, [{n_mels}, frames]"
    if foreign := _padding(mel, definition) or _foreign_floor(mel, definition):
        return foreign
    impossible = definition.misfit(mel)
    if statistics is not None and mel.shape[1] == n_mels and _is_turned(mel, statistics):
        return f"looks like frames along the first axis; the model expects [{n_mels}, frames]"
    if statistics is None or mel.shape[1] < FEWEST_TOLD or mel.std() < 1e-3 * torch.tensor(statistics.std).mean():
        return impossible
    mel = mel.double()
    trained = tuple(torch.tensor(values, dtype=mel.dtype) for values in (statistics.mean, statistics.std))
    own = _distance(mel, definition.config, *trained) + _floor_error(mel, mel, definition)
    plausible = min(own, _distance_with_noise(mel, definition.config, *trained) + NOISE_COST)
    if impossible or own > LARGEST_DISTANCE:
        explained, found = min(_explanations(mel, definition, *trained), key=lambda item: item[0])
        limit = OF_AN_IMPOSSIBLE_MEL * own if impossible else CLEARLY_CLOSER * plausible
        if mel.shape[1] < FEWEST_FRAMES:
            limit = OF_A_SHORT_MEL * plausible
        if explained < min(LARGEST_DISTANCE, limit):
            return f"looks like {found}"
    if mel.shape[1] < FEWEST_FRAMES:
        return impossible
    floor = _wrong_floor(mel, definition, statistics)
    if floor or impossible or plausible <= LARGEST_DISTANCE:
        return floor or impossible
    return _unexplained(mel, *trained)


def _padding(mel, definition):
    """One line if the mel ends in frames of zeros, which a batch is padded with, and which are no silence; else None."""
    is_zero = (mel == 0).all(0)
    n_frames = int(is_zero.flip(0).long().cumprod(0).sum())
    silence = definition.range()[0]
    if n_frames == 0 or silence == 0 or definition.config.clamp == "zero":
        return None
    return f"the last {n_frames} frames are 0 in all bands (padding? The model expects {silence:.4g} for silence)"


def _foreign_floor(mel, definition):
    """One line if the smallest values are, exactly, what the same clamp is in another logarithm; else None."""
    config, low = definition.config, definition.range()[0]
    if not math.isfinite(low):
        return None
    # Half precision rounds it; a single value must be exact.
    tolerance = (RANGE_TOLERANCE / 2 if (mel == mel.min()).sum() > 1 else 1e-5) / config.std
    for log, power in itertools.product(LOG_NAMES, (1.0, 2.0)):
        clamp = config.clamp_min ** (power / config.power)
        other = config.model_copy(update={"log": log, "power": power, "clamp_min": clamp})
        floor = compress(torch.tensor(-math.inf), other).item()
        if abs(floor - low) > FLOOR_TOLERANCE and abs(mel.min().item() - floor) <= tolerance:
            words = [(LOG_NAMES[log], LOG_NAMES[config.log]), (_power_name(power), _power_name(config.power))]
            found, wanted = zip(*((found, wanted) for found, wanted in words if found != wanted))
            return f"looks like {', '.join(found)}; the model expects {', '.join(wanted)}"
    return None


def _distance(mel, config, mean, std):
    """How unlike mels of those statistics by band, `[n_mels]`, a mel is; about 1 for another voice, 0 for their average."""
    nepers = config.std * log_unit(config) / config.power
    offset = (mel.mean(1) - mean) * nepers
    gain = offset.mean()
    profile = (offset - gain).square().mean().sqrt()
    spread = mel.std(1, correction=0).square().mean().sqrt() / std.square().mean().sqrt()
    return math.hypot(gain / GAIN_TOLERANCE, profile / PROFILE_TOLERANCE, spread.clamp(min=1e-6).log() / SPREAD_TOLERANCE)


def _distance_with_noise(mel, config, mean, std):
    """The distance from the training with noise laid over it; it explains a higher floor, but not other loud frames."""
    noisy_mean, noisy_std = _with_noise(mel, mean, std)
    loud = torch.maximum(mean + LOUD_DEVIATIONS * std, noisy_mean)
    offset = (mel.quantile(LOUD_QUANTILE, dim=1) - loud) * config.std * log_unit(config) / config.power
    return math.hypot(_distance(mel, config, noisy_mean, noisy_std), offset.square().mean().sqrt() / PROFILE_TOLERANCE)


def _with_noise(mel, mean, std):
    """The statistics, if noise as strong as the mel's quietest frames lay over the training: max(x, floor), x Gaussian."""
    floor = mel.quantile(QUIET_QUANTILE, dim=1)
    above, std = mean - floor, std.clamp(min=1e-9)
    share = torch.special.ndtr(above / std)
    density = torch.exp(-0.5 * (above / std).square()) / math.sqrt(2 * math.pi)
    first = above * share + std * density
    second = (above.square() + std.square()) * share + above * std * density
    return floor + first, (second - first.square()).clamp(min=0).sqrt()


def _is_turned(mel, statistics):
    """Whether a square mel has its frames along the first axis, whatever its scale."""
    mean = torch.tensor(statistics.mean, dtype=mel.dtype)
    bands, frames = (torch.corrcoef(torch.stack([mean, mel.mean(axis)]))[0, 1] for axis in (1, 0))
    return bool(frames > bands + TURNED_MARGIN)


def _is_clamped(mel):
    """Whether so many values are the smallest one that a clamp must have made them."""
    return (mel - mel.min() < RANGE_TOLERANCE * mel.std()).double().mean() > CLAMPED_SHARE


def _floor_error(original, mel, definition):
    """Something to add to the distance of a mel whose clamped values are not at the definition's floor."""
    config, low = definition.config, definition.range()[0]
    nepers = config.std * log_unit(config) / config.power
    off = abs(mel.min().item() - low) * nepers if math.isfinite(low) else 0.0
    return 1.0 if _is_clamped(original) and off > FLOOR_TOLERANCE else 0.0


def _explanations(mel, definition, mean, std):
    """Yields (distance after undoing a mistake, what the mel looks like and what the model expects instead)."""
    config = definition.config
    flat = {}  # by norm: the logarithm of what a band makes of a spectrum of ones
    for norm in (None, "slaney"):
        widths = LogMelSpectrogram(config.model_copy(update={"norm": norm})).band_widths()
        flat[norm] = widths.double().clamp(min=1e-10).log()[:, None]
    for foreign, found, wanted in _other_definitions(config):
        # Undo what the mel looks like, and do what it should be. Its spectrum is taken to be flat within each band.
        spectrum = (expand(mel, foreign) - flat[foreign.norm]) / foreign.power
        converted = compress(spectrum * config.power + flat[config.norm], config)
        cost = COST_OF_A_DIFFERENCE * (len(found) - 1)
        yield (
            _distance(converted, config, mean, std) + _floor_error(mel, converted, definition) + cost,
            f"{', '.join(found)}; the model expects {', '.join(wanted)}",
        )
    for rescaled in _undone_standardisations(mel, mean, std):
        yield (
            _distance(rescaled, config, mean, std) + COST_OF_A_DIFFERENCE,
            f"normalised features of mean 0 and deviation 1; the model expects {LOG_NAMES[config.log]} with mean {mean.mean():.3g}",
        )
    if mel.min() >= 0 and mel.max() > LINEAR_PEAK * mel.mean():
        linear = compress(mel.clamp(min=1e-12).log(), config)
        yield _distance(linear, config, mean, std), f"no logarithm was taken; the model expects {LOG_NAMES[config.log]}"
    quieter = compress(expand(mel, config) - config.power * math.log(32768), config)
    yield _distance(quieter, config, mean, std), "samples of up to 32768; the model expects samples within [-1, 1]"


def _other_definitions(config):
    """Yields (definition, what is different about it, what the model has instead), lists of words."""
    scaled = (config.mean, config.std) != (0.0, 1.0) or config.clip is not None
    plain, in_01 = {"mean": 0.0, "std": 1.0, "clip": None}, {"log": "db", "mean": -80.0, "std": 100.0, "clip": (0.0, 1.0)}
    own_scale = f"normalised by ({LOG_NAMES[config.log]} {'+' if config.mean < 0 else '-'} {abs(config.mean):g}) / {config.std:g}"
    scales = [({}, None)] + ([(plain, "not normalised")] if scaled else []) + [(in_01, "decibels scaled to [0, 1]")]
    for log, power, norm, (scale, scale_name) in itertools.product(LOG_NAMES, (1.0, 2.0), (None, "slaney"), scales):
        if scale is in_01 and log != "db":
            continue
        changes = {**{"log": log, "power": power, "norm": norm}, **scale}
        differences = [
            (log != config.log and scale is not in_01, LOG_NAMES[log], LOG_NAMES[config.log]),
            (power != config.power, _power_name(power), _power_name(config.power)),
            (norm != config.norm, _norm_name(norm), _norm_name(config.norm)),
            (scale_name is not None, scale_name, own_scale if scaled else f"plain {LOG_NAMES[config.log]}"),
        ]
        differences = [(found, wanted) for differs, found, wanted in differences if differs]
        if differences:
            yield (config.model_copy(update=changes), *(list(words) for words in zip(*differences)))


def _power_name(power):
    return {1.0: "magnitude", 2.0: "power"}.get(power, f"mel power {power:g}")


def _norm_name(norm):
    return "filters of unit height" if norm is None else "filters of unit area (slaney)"


def _undone_standardisations(mel, mean, std):
    """Yields the mel as it would be, had it been normalised over everything, and band by band."""
    yield mel * (std.square().mean() + mean.var(correction=0)).sqrt() + mean.mean()
    yield mel * std[:, None] + mean[:, None]


def _wrong_floor(mel, definition, statistics):
    """One line if the values were clamped elsewhere than the definition does, else None."""
    config, low = definition.config, definition.range()[0]
    clamps = math.isfinite(low)
    low = low if clamps else statistics.minimum
    nepers = config.std * log_unit(config) / config.power
    off = (mel.min().item() - low) * nepers
    below = clamps and config.clip is None and off < -max(FLOOR_TOLERANCE, RANGE_TOLERANCE * nepers)
    if not below and not (off > FLOOR_TOLERANCE and _is_clamped(mel)):
        return None
    clamp = math.exp(expand(mel.min(), config).item())
    wanted = f"{config.clamp_min:.1g} (smallest value {low:.4g})" if clamps else f"none (smallest value there: {low:.4g})"
    return f"looks like a clamp at {clamp:.1g} (smallest value {mel.min():.4g}); the model expects {wanted}"


def _unexplained(mel, mean, std):
    return (
        f"unlike the mels of the training: mean {mel.mean():.3g}, deviation over time "
        f"{mel.std(1, correction=0).square().mean().sqrt():.3g} (there: {mean.mean():.3g}, {std.square().mean().sqrt():.3g})"
    )
