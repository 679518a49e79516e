"""A new run that begins with given weights: fine-tuning."""

from common.errors import InputError
from model.checkpoint import listed, weight_differences
from training.checkpointing import differences


def begin_with(trainer, checkpoint, path, matching_only=False, step=0):
    """Puts weights into the network and the average of a new trainer; the optimiser is as new.

    Args:
        checkpoint: a `model.checkpoint.Checkpoint`.
        path: its file, for messages.
        matching_only: leave out the weights that do not fit instead of refusing them.
        step: where in the configuration's steps the trainer begins.

    Returns:
        lines to say.

    Raises:
        InputError: weights do not fit, which the message lists, or the configuration has no such step.
    """
    if step >= trainer.config.training.n_steps:
        raise InputError(f"--init_step: expected less than training.n_steps, {trainer.config.training.n_steps}, got {step}")
    misfits = weight_differences(trainer.network, checkpoint.weights)
    if misfits and not matching_only:
        raise InputError(f"{path}: {listed(misfits.values())}; expected the network of the configuration, or --init_from_matching")
    matching = {name: tensor for name, tensor in checkpoint.weights.items() if name not in misfits}
    if not matching:
        raise InputError(f"{path}: expected weights for the network of the configuration, got none that fit")
    for network in (trainer.network, trainer.ema.module):
        network.load_state_dict(matching, strict=False)
    lines = [f"beginning with {len(matching)} of {len(trainer.network.state_dict())} weights from {path}" + f" at step {step}" * (step > 0)]
    trainer.begin_at(step)
    if misfits:
        lines.append(f"warning: left as they are: {listed(misfits.values())}")
    if others := _other_keys(checkpoint.config, trainer.config, {"mel", "prior"}):
        lines.append(f"warning: the weights were trained for other mels: {listed(others)}")
    if (others := _other_keys(checkpoint.config, trainer.config, {"network"})) and not misfits:
        lines.append(f"warning: the weights fit, but were trained in another network: {listed(others)}")
    return lines


def _other_keys(config, own_config, sections):
    """What is different in these sections of two configurations, in words."""
    found = differences(config.model_dump(include=sections), own_config.model_dump(include=sections))
    return [f"{key} is {theirs} (here: {ours})" for key, theirs, ours in found]
