"""Read and check the JSON Schemas that a recipe names."""

from __future__ import annotations

import importlib
from pathlib import Path

import orjson


def check_schema(schema: object) -> None:
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
        path = "/".join(map(str, error.absolute_path)) or "its top"
        raise ValueError(f"not a JSON Schema: at {path}: {error.message}") from error


def read_schema(path: str) -> object:
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
