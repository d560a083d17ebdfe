"""Kinds of canonical rows, where they come from, and how they are written."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from trainer import exact_json
from trainer.recipe.data import Format

Message = dict[str, Any]
Record = dict[str, Any]


MESSAGES, PAIR, TEXT, KTO, TOKENS = range(5)
"""Kinds of row."""


class Origin(NamedTuple):
    """Where rows come from."""

    label: str
    """Name of the file, as rows carry it."""
    format: Format
    mapping: tuple[tuple[str, str], ...]
    is_benchmark: bool = False
    """Rows to compare with, in any layout: one that is not known is compared by its longest text."""


def rejected(source: str, line: int, reason: str, *, of: str | None = None, detail: str = "") -> dict[str, object]:
    """Return the line of `rejected.jsonl` about a row."""
    return {"source": source, "line": line, "reason": reason, "of": of, "detail": detail}


def write_line(row: Record) -> bytes:
    """Return a row as a line of JSON, every number as it was read; dates, decimals and bytes as text."""
    return exact_json.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


class Side(IntEnum):
    """What a file's rows are for."""

    SOURCE = 0
    HELDOUT = 1
    VALIDATION = 2
    BENCHMARK = 3
