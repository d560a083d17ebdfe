"""The columns of one row: renamed by a mapping, taken one by one, the rest kept as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.data.reasons import RowError
from trainer.data.turns import shorten

TURN_COLUMNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = ("prompt", "question", "query", "input")
COMPLETION_COLUMNS = ("completion", "response", "answer", "output")
INPUT_COLUMNS = ("input", "context")
OUTPUT_COLUMNS = ("output", "response")
LABEL_COLUMNS = ("label", "kto_tag")
MAPPABLE = frozenset(
    {*TURN_COLUMNS, *PROMPT_COLUMNS, *COMPLETION_COLUMNS, *INPUT_COLUMNS, *LABEL_COLUMNS}
    | {"instruction", "history", "system", "chosen", "rejected", "rejected_response", "text"}
    | {"tools", "chat_template_kwargs", "input_ids", "labels", "attention_mask"}
)
"""Names that `data.sources[].mapping` may give a column."""


class Columns:
    """The columns of one row; remembers which were used, so that the others can be kept as metadata."""

    def __init__(self, raw: Mapping[str, Any], mapping: Mapping[str, str]) -> None:
        mapped = {name: _find(raw, path) for name, path in mapping.items()}
        rest: Mapping[str, Any] = raw
        for path in mapping.values():
            rest = _without(rest, path)
        self.values: dict[str, Any] = {**rest, **mapped}
        self.shadowed = {name: value for name, value in rest.items() if name in mapped}
        self.used: set[str] = set()

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def take(self, name: str) -> Any:
        """Return the column, or None, and mark it as used."""
        self.used.add(name)
        return self.values.get(name)

    def one_of(self, names: tuple[str, ...]) -> str:
        """Return the one of `names` that the row has; the first name wins, of the others only one may be there.

        Raises:
            RowError: none of them, or several.
        """
        found = [name for name in names if self.has(name)]
        if not found:
            raise RowError("unknown_format", f"none of {', '.join(names)} in a row with {self.described()}")
        if len(found) > 1 and found[0] != names[0]:
            raise RowError("unknown_format", f"both {' and '.join(found)}; say which by mapping: {{{names[0]}: ...}}")
        return found[0]

    def described(self) -> str:
        return shorten("columns " + ", ".join(map(str, self.values)), 200)

    def metadata(self) -> dict[str, Any]:
        """Return the columns that were not used; a `metadata` column is merged in, so that our own files read back."""
        rest = {
            name: value
            for name, value in self.values.items()
            if name not in self.used and not (value is None and name in MAPPABLE)
        }
        own = rest.pop("metadata") if isinstance(rest.get("metadata"), dict) else {}
        return {**own, **rest, **self.shadowed}


def _find(raw: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a path; a column whose name holds the dots itself comes first."""
    if path in raw:
        return raw[path]
    value: Any = raw
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise RowError("unknown_format", f"no column {path!r}, which `mapping` names")
    return value


def _without(value: Any, path: str) -> Any:
    """Return `value` without what stands at the path; only the objects along the path are new."""
    if isinstance(value, Mapping) and path in value:
        return {name: item for name, item in value.items() if name != path}
    part, _, rest = path.partition(".")
    if isinstance(value, Mapping) and rest and part in value:
        return {**value, part: _without(value[part], rest)}
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        inside = [_without(value[int(part)], rest)] if rest else []
        return [*value[: int(part)], *inside, *value[int(part) + 1 :]]
    return value
