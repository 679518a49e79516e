"""A new run that begins with given weights: fine-tuning."""

from common.errors import InputError
from model.checkpoint import listed, weight_differences
from training.same_run import flat


def begin_with(trainer, checkpoint, path, matching_only=False):
    """Puts weights into the network and the average of a trainer at step 0; the optimiser is as new.

    Args:
        checkpoint: a `model.checkpoint.Checkpoint`.
        path: its file, for messages.
        matching_only: leave out the weights that do not fit instead of refusing them.

    Returns:
        lines to say.

    Raises:
        InputError: weights do not fit; the message lists them.
    """
    differences = weight_differences(trainer.network, checkpoint.weights)
    if differences and not matching_only:
        raise InputError(f"{path}: {listed(differences.values())} (wanted: the network of the configuration, or --init_from_matching)")
    matching = {name: tensor for name, tensor in checkpoint.weights.items() if name not in differences}
    if not matching:
        raise InputError(f"{path}: no weight fits the network of the configuration")
    for network in (trainer.network, trainer.ema.module):
        network.load_state_dict(matching, strict=False)
    lines = [f"beginning with {len(matching)} of {len(trainer.network.state_dict())} weights from {path}"]
    if differences:
        lines.append(f"warning: left as they are: {listed(differences.values())}")
    found, wanted = (
        flat({"mel": config.mel.model_dump(), "prior": config.prior and config.prior.model_dump()})
        for config in (checkpoint.config, trainer.config)
    )
    others = [f"{key} is {found.get(key)} (here: {wanted.get(key)})" for key in found | wanted if found.get(key) != wanted.get(key)]
    if others:
        lines.append(f"warning: the weights were trained for other mels: {listed(others)}")
    return lines
