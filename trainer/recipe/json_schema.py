"""JSON Schemas that a recipe names, checked before anything runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import orjson


def check_schema(schema: Any) -> None:
    """Refuse what is not a JSON Schema.

    Raises:
        ValueError: With the place of the fault.
    """
    library = importlib.import_module("jsonschema")  # by name: only recipes with a schema pay for it
    if not isinstance(schema, dict | bool):
        raise ValueError(f"not a JSON Schema: expected an object, got {type(schema).__name__}")
    try:
        library.validators.validator_for(schema, default=library.Draft202012Validator).check_schema(schema)
    except library.SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its top"
        raise ValueError(f"not a JSON Schema: at {place}: {error.message}") from error


def read_schema(path: str) -> Any:
    """Read a schema from a JSON file.

    Raises:
        ValueError: There is no such file, or it is not JSON.
    """
    try:
        return orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"no readable file {path}") from error
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
