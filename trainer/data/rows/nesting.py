"""Limit the nesting of a row."""

from __future__ import annotations

from trainer.data.records.reasons import RowError

MAX_DEPTH = 64
"""Deepest nesting of objects and lists in a row; deeper ones break the recursion of every step they pass through."""


def check_shape(value: object) -> None:
    """Refuse what is nested so deeply that a later step could not walk through it.

    Raises:
        RowError: naming the limit.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for container in level for item in _containers_in(container)]
        if not level:
            return
    raise RowError("invalid_json", f"nested more than {MAX_DEPTH} levels deep")


def _containers_in(value: object) -> list[object]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [item for item in items if isinstance(item, (dict, list, tuple))]
