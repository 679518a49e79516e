"""Comparison of a configuration with that of a checkpoint: whether it is the same run, and what has changed."""

from common.errors import InputError
from extensions.infer_grad.adversarial import OF_DISCRIMINATORS
from model.checkpoint import check_same
from model.config import parse_config

NO_LONGER_THE_SAME_RUN = ("noise_schedule", "training.seed")  # beside network and mel
DISCRIMINATOR_KEYS = tuple(f"adversarial.{key}" for key in OF_DISCRIMINATORS)


def changes(state, config, path):
    """Compares the configuration of a checkpoint with the present one.

    Args:
        state: a training state.
        config: the present `Config`.
        path: the checkpoint, for messages.

    Returns:
        list of (key, old value, new value) that differ and may.

    Raises:
        InputError: a key differs that makes it another run; names it with both values.
    """
    found = parse_config(state["config"], f"{path} (configuration in the checkpoint)")
    check_same(found, config, path)
    old, new = flat(found.model_dump()), flat(config.model_dump())
    keys = old | new  # sections that were left out in one of them
    differing = [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]
    for key, old_value, new_value in differing:
        other_discriminators = key.endswith(DISCRIMINATOR_KEYS) and None not in (old_value, new_value)
        if key.startswith(NO_LONGER_THE_SAME_RUN) or other_discriminators:
            raise InputError(f"{path}: {key} is {old_value} (wanted by the configuration: {new_value}); another run needs another --logdir")
    return [change for change in differing if not change[0].startswith(("network.", "mel."))]


def flat(section, prefix=""):
    """Nested dictionaries, and lists of them, as one dictionary, with keys such as 'training.seed' and 'training.stages.1.n_steps'."""
    values = {}
    for key, value in section.items():
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value, 1)}
        values.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return values
