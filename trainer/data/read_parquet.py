"""Rows of a parquet file, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from trainer.data.raw import RawRow
from trainer.errors import DataError

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[RawRow]:
    """Read the rows of a parquet file.

    Raises:
        DataError: it is no parquet file, or a damaged one.
    """
    line = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    line += 1
                    yield RawRow(line, without_nulls(value))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a readable parquet file: {message}", hint="write the file again") from error


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Drop the keys that Arrow filled with null so that all rows have the same ones: no row of the file wrote them."""
    return {name: _bare(cell) for name, cell in row.items()}


def _bare(cell: Any) -> Any:
    if isinstance(cell, dict):
        return {name: _bare(value) for name, value in cell.items() if value is not None}
    return [_bare(value) for value in cell] if isinstance(cell, list) else cell
