"""Read a foreign JSON file within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import orjson

from trainer.errors import HardwareError, StageError, TrainerError

MAX_JSON_BYTES = 8 << 20
"""Of a configuration; the largest published ones have some ten thousand bytes."""
MAX_DEPTH = 32

Json: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class ForeignFile:
    """A file of a model or an adapter that somebody else may have written."""

    path: Path
    is_adapter: bool = False

    def wrong(self, problem: str, fix: str | None = None) -> TrainerError:
        """Return the error for this file: exit 5 for a base model, 4 for an adapter."""
        if self.is_adapter:
            hint = fix or "point adapter.init_from at another adapter, or bring the file back from its source"
            return StageError(f"{self.path}: {problem}", hint=hint)
        hint = fix or "compare the file with its source: it is damaged, or of another program"
        return HardwareError(f"{self.path}: {problem}", hint=hint)

    def json_object(self) -> Json:
        """Return the content of a file that holds one JSON object.

        Raises:
            HardwareError: It is missing, no regular file, too large, or another thing; of an adapter StageError.
        """
        if not self.path.is_file():  # a FIFO or a device would be read without end
            raise self.wrong("is a device or a pipe, not a file" if self.path.exists() else "is missing")
        if (size := self.path.stat().st_size) > MAX_JSON_BYTES:
            raise self.wrong(f"has {size / 2**20:.0f} MiB; no configuration has more than {MAX_JSON_BYTES >> 20} MiB")
        try:
            values = orjson.loads(self.path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise self.wrong(f"line {error.lineno}: is no JSON: {error.msg}") from error
        if not isinstance(values, dict):
            raise self.wrong(f"holds a {type_name(values)} where an object is expected")
        return values


def type_name(value: object) -> str:
    """Return how JSON calls the type of a value.

    Example:
        >>> [type_name(value) for value in (True, 1, 0.5, "a", None, [], {})]
        ['boolean', 'number', 'number', 'text', 'null', 'list', 'object']
    """
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case None:
            return "null"
        case list():
            return "list"
    return "object"


def shortened(value: object) -> str:
    """Return a value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
