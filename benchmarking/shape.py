"""What a JSON file of ours must look like, as pydantic models, and one line about one that looks otherwise."""

import json

from pydantic import BaseModel, ConfigDict, ValidationError

from model.errors import InputError, shortened


class Shape(BaseModel):
    """A dictionary with known keys; keys that the model does not name are not read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def shaped(model, content, origin):
    """A pydantic model's instance of what a JSON file holds.

    Raises:
        InputError: one line that names `origin`, the key, what was found and what was wanted.
    """
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise InputError(f"{origin}: missing key '{key}'") from None
        found = f", found {shortened(repr(first['input']))}" if first["type"] not in ("value_error", "json_invalid") else ""
        raise InputError(f"{origin}: {f'{key}: ' * bool(key)}{message}{found}") from None
