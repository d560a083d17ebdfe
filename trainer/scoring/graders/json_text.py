"""JSON in answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_MAX_STARTS = 50


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def parse(text: str) -> Any:
    """Read a whole text as JSON; NaN and Infinity are not JSON.

    Raises:
        ValueError: It is not.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


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
                return _DECODER.raw_decode(part, start)[0]
            except (ValueError, RecursionError):
                continue
    return None


def canonical(value: Any) -> str:
    """Write a value so that equal ones are equal texts: keys in order, 1.0 as 1."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def mostly_json(references: Sequence[str]) -> bool:
    """Tell whether the reference answers are JSON, so that its validity is worth a metric."""
    return bool(references) and sum(map(is_json, references)) > len(references) / 2
