"""Read JSON in answers, strictly, and write it in one form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_MAX_STARTS = 50
_WHITE = " \t\n\r"
MAX_DEPTH = 100
"""Deepest nesting of an answer that counts as JSON."""


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} stands twice in an object")
    return values


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)


def parse(text: str) -> Any:
    """Read a whole text as JSON; NaN, Infinity, and objects that name a key twice are not JSON.

    Raises:
        ValueError: It is not.
    """
    try:
        return _shallow(_DECODER.decode(text.strip(_WHITE)))
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def _shallow(value: object) -> Any:  # a JSON value
    """Return a value that can be walked through by functions that call themselves.

    Raises:
        ValueError: It is nested more deeply than `MAX_DEPTH`.
    """
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [part for item in level if isinstance(item, dict | list) for part in _parts(item)]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _parts(value: dict[str, object] | list[object]) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


def is_json(text: str) -> bool:
    """Tell whether the whole text is one JSON object or list."""
    try:
        return isinstance(parse(text), dict | list)
    except ValueError:
        return False


def find(text: str) -> Any:
    """Return the first JSON object or list in a text, those in code fences first; None if there is none."""
    for part in [*_FENCE.findall(text), text]:
        starts = [match.start() for match in re.finditer(r"[{\[]", part)]
        for start in starts[:_MAX_STARTS]:
            try:
                return _shallow(_DECODER.raw_decode(part, start)[0])
            except (ValueError, RecursionError):
                continue
    return None


def canonical(value: object) -> str:
    """Write a value so that equal ones are equal texts: keys in order, 1.0 as 1.

    Example:
        >>> canonical({"b": 1.0, "a": "é"})
        '{"a": "é", "b": 1}'
    """
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def mostly_json(references: Sequence[str]) -> bool:
    """Tell whether the reference answers are JSON, so that its validity is worth a metric."""
    return bool(references) and sum(map(is_json, references)) > len(references) / 2
