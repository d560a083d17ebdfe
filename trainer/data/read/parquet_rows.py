"""Read rows of parquet and Arrow files, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from trainer.data.read.arrow_values import reader_of, without_times
from trainer.data.read.raw_row import RawRow
from trainer.errors import DataError
from trainer.exact_json import ExactNumber

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[RawRow]:
    """Read the rows of a parquet file.

    Raises:
        DataError: it is no parquet file, or a damaged one.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from rows_of_batches(file.iter_batches(batch_size=BATCH_ROWS))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, "parquet", error) from error


def read_arrow(path: Path) -> Iterator[RawRow]:
    """Read the rows of an Arrow file (Feather too) or of an Arrow stream, as `datasets` keeps them.

    Raises:
        DataError: it is neither, or a damaged one.
    """
    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                reader = pyarrow.ipc.open_file(source)
            except pyarrow.ArrowInvalid:
                source.seek(0)
                yield from rows_of_batches(pyarrow.ipc.open_stream(source))
            else:
                yield from rows_of_batches(reader.get_batch(index) for index in range(reader.num_record_batches))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, "Arrow", error) from error


def rows_of_batches(batches: Iterable[Any]) -> Iterator[RawRow]:
    """Yield the rows of Arrow's batches, with every value exactly as the column's type has it."""
    line = 0
    for batch in batches:
        readers = {field.name: read for field in batch.schema if (read := reader_of(field.type))}
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for row in without_times(batch.slice(start, BATCH_ROWS)).to_pylist(maps_as_pydicts="lossy"):
                line += 1
                row |= {name: read(row[name]) for name, read in readers.items()}
                yield RawRow(line, without_nulls(row))


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path}: not a readable {kind} file: {message}", hint="write the file again")


def without_nulls(row: dict[str, object]) -> dict[str, object]:
    """Drop the keys that Arrow filled with null so that all rows have the same ones: no row of the file wrote them.

    Bytes that are UTF-8 are text, as writers without a type for text leave it.
    """
    return {name: _bare(cell) for name, cell in row.items()}


def _bare(cell: object) -> object:
    match cell:
        case str() | int() | None:
            return cell
        case dict():
            return {name: _bare(value) for name, value in cell.items() if value is not None}
        case list():
            return [_bare(value) for value in cell]
        case float():
            return cell if math.isfinite(cell) else _not_finite(cell)
        case bytes():
            return _as_text(cell)
        case _:
            return cell


def _not_finite(number: float) -> ExactNumber | None:
    """Return Infinity as it is written, and None for NaN, by which pandas means that nothing is there."""
    return None if math.isnan(number) else ExactNumber("Infinity" if number > 0 else "-Infinity")


def _as_text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content
