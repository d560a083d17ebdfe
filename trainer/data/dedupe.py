"""Repeated rows: the first copy is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.data.keys import content_key


def find_exact_duplicates(records: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Find rows whose normalised content an earlier row already has.

    Any other finder (near duplicates) returns the same shape, so that the stage can chain them.

    Returns:
        Index of each repeated row -> index of the row that is kept.
    """
    first: dict[str, int] = {}
    repeated: dict[int, int] = {}
    for index, record in enumerate(records):
        kept = first.setdefault(content_key(record), index)
        if kept != index:
            repeated[index] = kept
    return repeated
