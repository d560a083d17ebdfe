"""A row before anything is known of it, and how large it may be."""

from __future__ import annotations

from typing import NamedTuple

from trainer.data.reasons import RowError

MAX_ROW_BYTES = 16 * 2**20
"""Longest row that is read, about four million tokens: what is longer is no row, and must not fill the memory."""


class RawRow(NamedTuple):
    """A row as it stands in the file, or why it cannot be read."""

    line: int
    """Physical line (JSON lines, csv) or row number (JSON array, parquet, data set), from 1."""
    value: object
    error: RowError | None = None
