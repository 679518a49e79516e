"""What looks wrong with a mel: its statistics are compared with those of the mels that the model was trained on.

A mel of another definition, converted to the model's, would have the statistics of the training. So each usual mistake is tried:
if the mel does not have these statistics, but has them after a conversion, the message names this mistake. Nothing is converted for
the caller.
"""

import itertools
import math

import torch

from model.mel import RANGE_TOLERANCE, LogMelSpectrogram, compress, expand, log_unit

LOG_NAMES = {"ln": "natural log", "log10": "log10", "db": "decibels"}
POWER_NAMES = {1.0: "magnitude", 2.0: "power"}
NORM_NAMES = {None: "filters of unit height", "slaney": "filters of unit area (slaney)"}
PLAIN, IN_01 = {"mean": 0.0, "std": 1.0, "clip": None}, {"log": "db", "mean": -80.0, "std": 100.0, "clip": (0.0, 1.0)}
FEWEST_FRAMES = 100  # a second; fewer may be all speech, or all pause
FEWEST_TOLD = 30  # of which a mistake can be told, if it is a clear one
FLOOR_TOLERANCE = 0.1  # natural logarithms
# How far good mels may be from those of the training, in natural logarithms of amplitude (1 = 8.7 dB): another loudness, another
# voice and microphone, and the ratio of the standard deviations over time, as its logarithm.
GAIN_TOLERANCE, PROFILE_TOLERANCE, SPREAD_TOLERANCE = 1.5, 0.8, 0.25
LARGEST_DISTANCE = 2.5  # of a mel that is taken for what it should be
LARGEST_UNEXPLAINED = 5.0  # of a mel that no mistake explains: noise in the pauses makes 3 to 4
CLEARLY_CLOSER, OF_A_SHORT_MEL = 0.6, 0.5  # an explanation is believed below this share of the distance
COST_OF_A_DIFFERENCE = 0.3  # of two explanations that fit as well, the one with fewer mistakes
LINEAR_PEAK = 8  # a spectrum has peaks this many times its mean, its logarithm has not


def diagnose(mel, definition, statistics=None):
    """Says what looks wrong with a mel, if anything does.

    Args:
        mel: `[n_mels, frames]`.
        definition: the model's `LogMelSpectrogram`.
        statistics: `MelStatistics` of the model's training; without them, only what is impossible is noticed.

    Returns:
        one line, or None.
    """
    config = definition.config
    if mel.ndim != 2 or len(mel) != config.n_mels:
        turned = "frames along the first axis: " if mel.ndim == 2 and mel.shape[1] == config.n_mels else ""
        return f"{turned}shape {list(mel.shape)}; the model expects [{config.n_mels}, frames]"
    found = _padding(mel, definition) or _foreign_floor(mel, definition) or _unlike_the_training(mel.double(), definition, statistics)
    # Another sample rate or hop could explain any deviation, and a mel does not show them.
    return found and f"{found} (for {config.sample_rate:,} Hz, hop {config.hop_length}: a mel cannot tell its rate)"


def _padding(mel, definition):
    """One line if the mel ends in frames of zeros, which a batch is padded with, and which are no silence; else None."""
    n_frames, silence = int((mel == 0).all(0).flip(0).long().cumprod(0).sum()), definition.range()[0]
    if n_frames == 0 or silence == 0 or definition.config.clamp == "zero":
        return None
    return f"the last {n_frames} frames are 0 in all bands (padding? The model expects {silence:.4g} for silence)"


def _foreign_floor(mel, definition):
    """One line if the smallest values are, exactly, what the same clamp is in another logarithm; else None."""
    config, low = definition.config, definition.range()[0]
    # Half precision rounds it; a single value must be exact.
    tolerance = (RANGE_TOLERANCE / 2 if (mel == mel.min()).sum() > 1 else 1e-5) / config.std
    for log, power in itertools.product(LOG_NAMES, POWER_NAMES) if math.isfinite(low) else ():
        foreign = config.model_copy(update={"log": log, "power": power, "clamp_min": config.clamp_min ** (power / config.power)})
        floor = compress(torch.tensor(-math.inf), foreign).item()
        if abs(floor - low) > FLOOR_TOLERANCE and abs(mel.min().item() - floor) <= tolerance:
            return f"looks like {_differences(foreign, config)[1]}"
    return None


def _unlike_the_training(mel, definition, statistics):
    impossible = definition.misfit(mel)
    if statistics is None or mel.shape[1] < FEWEST_TOLD or mel.std() < 1e-3 * torch.tensor(statistics.std).mean():
        return impossible
    mean, std = (torch.tensor(values, dtype=mel.dtype) for values in (statistics.mean, statistics.std))
    own, is_long = _distance(mel, definition.config, mean, std), mel.shape[1] >= FEWEST_FRAMES
    if impossible or own > LARGEST_DISTANCE:
        converted = _converted(mel, definition, mean, std)
        distance, found = min((_distance(one, definition.config, mean, std) + cost, found) for one, cost, found in converted)
        if distance < min(LARGEST_DISTANCE, (CLEARLY_CLOSER if is_long else OF_A_SHORT_MEL) * own):
            return f"looks like {found}"
    if impossible or own <= LARGEST_UNEXPLAINED or not is_long:
        return impossible
    deviation = mel.std(1, correction=0).square().mean().sqrt()
    here, there = f"mean {mel.mean():.3g}, deviation over time {deviation:.3g}", f"{mean.mean():.3g}, {std.square().mean().sqrt():.3g}"
    return f"unlike the mels of the training: {here} (there: {there})"


def _distance(mel, config, mean, std):
    """How unlike mels of those statistics by band, `[n_mels]`, a mel is; about 1 for another voice, 0 for their average."""
    offset = (mel.mean(1) - mean) * config.std * log_unit(config) / config.power
    gain = offset.mean()
    profile = (offset - gain).square().mean().sqrt()
    spread = mel.std(1, correction=0).square().mean().sqrt() / std.square().mean().sqrt()
    return math.hypot(gain / GAIN_TOLERANCE, profile / PROFILE_TOLERANCE, spread.clamp(min=1e-6).log() / SPREAD_TOLERANCE)


def _converted(mel, definition, mean, std):
    """Yields (the mel after undoing a mistake, what the mistake costs, what it is and what the model expects instead)."""
    config, expects = definition.config, f"the model expects {LOG_NAMES[definition.config.log]}"
    scales = [{}, IN_01] + ([PLAIN] if _scale(config) else [])
    flat = {}  # by norm: the logarithm of what a band makes of a spectrum of ones, `[n_mels, 1]`
    for norm in NORM_NAMES:
        widths = LogMelSpectrogram(config.model_copy(update={"norm": norm})).band_widths()
        flat[norm] = widths.double().clamp(min=1e-10).log()[:, None]
    for log, power, norm, scale in itertools.product(LOG_NAMES, POWER_NAMES, NORM_NAMES, scales):
        foreign = config.model_copy(update={"log": log, "power": power, "norm": norm} | scale)
        n_differences, found = _differences(foreign, config)
        if n_differences:
            # Undo what the mel looks like, and do what it should be. Its spectrum is taken to be flat within each band.
            spectrum = (expand(mel, foreign) - flat[norm]) / power
            yield compress(spectrum * config.power + flat[config.norm], config), COST_OF_A_DIFFERENCE * (n_differences - 1), found
    found = f"normalised features of mean 0 and deviation 1; {expects} with mean {mean.mean():.3g}"
    yield mel * (std.square().mean() + mean.var(correction=0)).sqrt() + mean.mean(), COST_OF_A_DIFFERENCE, found
    yield mel * std[:, None] + mean[:, None], COST_OF_A_DIFFERENCE, found  # band by band
    if mel.min() >= 0 and mel.max() > LINEAR_PEAK * mel.mean():
        yield compress(mel.clamp(min=1e-12).log(), config), 0.0, f"no logarithm was taken; {expects}"
    quieter = compress(expand(mel, config) - config.power * math.log(32768), config)
    yield quieter, 0.0, "samples of up to 32768; the model expects samples within [-1, 1]"


def _scale(config):
    """How the logarithm is scaled, in words; empty where it is not."""
    if config.clip == (0.0, 1.0):
        return "scaled to [0, 1]"
    return f"normalised by (x {-config.mean:+g}) / {config.std:g}" if (config.mean, config.std) != (0.0, 1.0) else ""


def _differences(foreign, config):
    """In how much two definitions differ, and the words for the first and what the second has instead."""
    words = [
        (LOG_NAMES[one.log], POWER_NAMES.get(one.power, f"mel power {one.power:g}"), NORM_NAMES[one.norm], _scale(one) or "not normalised")
        for one in (foreign, config)
    ]
    pairs = [pair for pair in zip(*words) if pair[0] != pair[1]]
    found, expected = (", ".join(side) for side in zip(*pairs)) if pairs else ("", "")
    return len(pairs), f"{found}; the model expects {expected}"
