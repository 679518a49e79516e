"""The content of JSON files as pydantic models; a file that does not match is one line of error."""

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
