"""A new run that begins with given weights: fine-tuning."""

from common.errors import InputError
from model.checkpoint import listed, weight_differences
from training.checkpointing import flat


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
    differences = weight_differences(trainer.network, checkpoint.weights)
    if differences and not matching_only:
        raise InputError(f"{path}: {listed(differences.values())}; expected the network of the configuration, or --init_from_matching")
    matching = {name: tensor for name, tensor in checkpoint.weights.items() if name not in differences}
    if not matching:
        raise InputError(f"{path}: expected weights for the network of the configuration, got none that fit")
    for network in (trainer.network, trainer.ema.module):
        network.load_state_dict(matching, strict=False)
    lines = [f"beginning with {len(matching)} of {len(trainer.network.state_dict())} weights from {path}" + f" at step {step}" * (step > 0)]
    trainer.begin_at(step)
    if differences:
        lines.append(f"warning: left as they are: {listed(differences.values())}")
    if others := _differences(checkpoint.config, trainer.config, ("mel", "prior")):
        lines.append(f"warning: the weights were trained for other mels: {listed(others)}")
    if (others := _differences(checkpoint.config, trainer.config, ("network",))) and not differences:
        lines.append(f"warning: the weights fit, but were trained in another network: {listed(others)}")
    return lines


def _differences(config, own_config, sections):
    """What is different in these sections of two configurations, in words."""
    theirs, own = (flat(one.model_dump(include=set(sections))) for one in (config, own_config))
    return [f"{key} is {theirs.get(key)} (here: {own.get(key)})" for key in own | theirs if theirs.get(key) != own.get(key)]
