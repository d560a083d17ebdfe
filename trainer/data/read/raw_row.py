"""Define a raw row, and limit its size."""

from __future__ import annotations

from typing import NamedTuple

from trainer.data.records.reasons import RowError
from trainer.data.rows.values import twice
from trainer.exact_json import doubled_key, with_doubled

MAX_ROW_BYTES = 16 * 2**20
"""Longest row that is read, about four million tokens: what is longer is no row, and must not fill the memory."""


class RawRow(NamedTuple):
    """A row as it stands in the file, or why it cannot be read."""

    line: int
    """Physical line (JSON lines, csv) or row number (JSON array, parquet, data set), from 1."""
    value: object
    error: RowError | None = None


def checked_row(line: int, text: bytes | str, value: object) -> RawRow:
    """Return the row of a value and the JSON text that it was read from; an error where a key stands twice in it."""
    marked = with_doubled(text, value)
    return RawRow(line, value) if marked is value else marked_row(line, marked)


def marked_row(line: int, value: object) -> RawRow:
    """Return the row of a value from `with_doubled`."""
    key = doubled_key(value)
    return RawRow(line, value) if key is None else RawRow(line, None, twice(key))
