"""What a JSON file of ours must look like, as pydantic models, and one line about one that looks otherwise."""

import json

from pydantic import BaseModel, ConfigDict

from common.validation import validating


class Shape(BaseModel):
    """A dictionary with known keys; keys that the model does not name are not read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def shaped(model, content, origin):
    """A pydantic model's instance of what a JSON file holds.

    Raises:
        InputError: one line that names `origin`, the key, what was found and what was wanted.
    """
    with validating(origin):
        return model.model_validate_json(json.dumps(content))
