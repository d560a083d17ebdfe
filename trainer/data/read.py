"""Rows of a file, one at a time, with the place each stands at.

The suffix is only a hint: whether a file is a JSON array or JSON lines is told from its first bytes.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import orjson
import pyarrow
import pyarrow.parquet

from trainer.data.reasons import RowError
from trainer.errors import DataError

if TYPE_CHECKING:
    import _csv  # the only place that names the type of csv.reader in Python 3.11

BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
BATCH_ROWS = 1024
MAX_CSV_CELL_CHARS = 2**30
"""The csv module stops at 131,072, which long documents pass."""


class RawRow(NamedTuple):
    """A row as it stands in the file, or why it cannot be read."""

    line: int
    """Physical line (JSON lines, csv) or row number (JSON array, parquet), from 1."""
    value: object
    error: RowError | None = None


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read the rows of a `.jsonl`, `.json`, `.csv` or `.parquet` file, without holding JSON lines in memory.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, not UTF-8, or broken as a whole.
    """
    _check_file(path)
    match path.suffix.lower():
        case ".parquet":
            return _read_parquet(path)
        case ".csv":
            return _read_csv(path)
        case ".jsonl" | ".ndjson" | ".json":
            return _read_json(path)
        case suffix:
            raise DataError(f"{path}: unknown kind of file {suffix!r}", hint=f"use one of {', '.join(SUFFIXES)}")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="correct the path in the recipe's data section")
    if not path.is_file():
        raise DataError(f"{path}: not a file", hint=f"name one file: {', '.join(SUFFIXES)}")
    try:
        with path.open("rb") as file:
            is_empty = not any(line.removeprefix(BOM).strip() for line in file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="make the file readable") from error
    if is_empty:
        raise DataError(f"{path}: the file is empty", hint="give a file with at least one row")


def _read_json(path: Path) -> Iterator[RawRow]:
    if _is_json_lines(path):
        with path.open("rb") as file:
            yield from _read_json_lines(path, file)
        return
    for index, value in enumerate(_load_whole(path), start=1):
        yield RawRow(index, value)


def _is_json_lines(path: Path) -> bool:
    """Tell JSON lines from one JSON value that spans the file."""
    with path.open("rb") as file:
        filled = (line.removeprefix(BOM).strip() for line in file)
        lines = list(itertools.islice(filter(None, filled), 2))
    if len(lines) == 1:
        return not _is_container(lines[0])
    if _is_json(lines[0]):
        return True
    # A first line that is no JSON value: the opening of a value over many lines, or a broken line of JSON lines.
    if lines[0].startswith(b"["):
        return False
    return path.suffix.lower() != ".json" or (lines[1].startswith(b"{") and _is_json(lines[1]))


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_container(text: bytes) -> bool:
    """Whether a one-line file holds all its rows in one JSON value."""
    if text.startswith(b"["):
        return True
    value = orjson.loads(text) if _is_json(text) else None
    return isinstance(value, dict) and isinstance(value.get("data"), list)


def _read_json_lines(path: Path, file: BinaryIO) -> Iterator[RawRow]:
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(BOM) if number == 1 else line
        if text.strip():
            yield _parse_line(path, number, text)


def _parse_line(path: Path, number: int, line: bytes) -> RawRow:
    try:
        return RawRow(number, orjson.loads(line))
    except orjson.JSONDecodeError:
        text = _decode(path, number, line)
    try:
        # The standard parser takes NaN and lone surrogates, which files in the wild hold and orjson refuses.
        return RawRow(number, json.loads(text, parse_int=_bounded_int))
    except json.JSONDecodeError as error:
        return RawRow(number, None, RowError("invalid_json", f"{error.msg} at column {error.colno}"))
    except RecursionError:
        return RawRow(number, None, RowError("invalid_json", "nested too deeply"))


def _bounded_int(digits: str) -> int | float:
    """Read an integer as orjson does: beyond 64 bits it becomes a float."""
    value = int(digits) if len(digits) <= 20 else float(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def _decode(path: Path, line: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if text.startswith(UTF16_BOMS) else "CP1252"
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{text[error.start]:02x} at column {error.start + 1})",
            hint=f"convert the file, for example: iconv -f {encoding} -t UTF-8",
        ) from None


def _load_whole(path: Path) -> list[object]:
    content = path.read_bytes().removeprefix(BOM)
    try:
        value: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = _load_leniently(path, content)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    return value if isinstance(value, list) else [value]


def _load_leniently(path: Path, content: bytes) -> object:
    text = "".join(
        _decode(path, number, line) for number, line in enumerate(content.splitlines(keepends=True), start=1)
    )
    try:
        return json.loads(text, parse_int=_bounded_int)
    except json.JSONDecodeError as error:
        message = f"{path}:{error.lineno}: invalid_json: {error.msg} at column {error.colno}"
    except RecursionError:
        message = f"{path}: invalid_json: nested too deeply"
    raise DataError(message, hint="correct the file: a JSON array of rows, or one row on each line")


def _read_csv(path: Path) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_CSV_CELL_CHARS)
    with path.open("rb") as file:
        lines = (_decode(path, number, line) for number, line in enumerate(file, start=1))
        reader = csv.reader(_without_bom(lines), strict=True)
        header = _csv_header(path, reader)
        while True:
            line = reader.line_num + 1
            cells = _next_cells(path, reader)
            if cells is None:
                return
            if cells:
                yield _csv_row(line, header, cells)


def _without_bom(lines: Iterator[str]) -> Iterator[str]:
    yield next(lines, "").removeprefix("\ufeff")
    yield from lines


def _csv_header(path: Path, reader: _csv.Reader) -> list[str]:
    header = _next_cells(path, reader) or []
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled or not any(header):
        problem = f"column {doubled[0]!r} twice in the header" if doubled else "no header line"
        raise DataError(f"{path}:1: {problem}", hint="the first line names the columns, each once")
    return header


def _next_cells(path: Path, reader: _csv.Reader) -> list[str] | None:
    line = reader.line_num + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}:{line}: invalid_csv: {error}", hint='quote cells with ", and write " as ""') from None


def _csv_row(line: int, header: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)}"
        return RawRow(line, None, RowError("invalid_csv", detail))
    return RawRow(line, dict(zip(header, cells, strict=True)))


def _read_parquet(path: Path) -> Iterator[RawRow]:
    line = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    line += 1
                    yield RawRow(line, {name: _without_nulls(cell) for name, cell in value.items()})
    except (pyarrow.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable parquet file: {message}", hint="write the file again") from error


def _without_nulls(cell: Any) -> Any:
    """Drop the keys that Arrow filled with null so that all rows have the same ones: no row of the file wrote them."""
    if isinstance(cell, dict):
        return {name: _without_nulls(value) for name, value in cell.items() if value is not None}
    return [_without_nulls(value) for value in cell] if isinstance(cell, list) else cell
