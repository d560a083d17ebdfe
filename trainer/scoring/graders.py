"""Pure functions that mark one answer against its reference."""

from __future__ import annotations

import json
from collections.abc import Sequence


def exact_match(answer: str, reference: str) -> bool:
    """Tell whether the answer is the reference, outer white space aside."""
    return answer.strip() == reference.strip()


def is_json(text: str) -> bool:
    """Tell whether the whole text is one JSON object or list."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def mostly_json(references: Sequence[str]) -> bool:
    """Tell whether the reference answers are JSON, so that its validity is worth a metric."""
    return bool(references) and sum(map(is_json, references)) > len(references) / 2
