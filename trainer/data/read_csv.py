"""Rows of a csv file: the first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.lines import decode, read_lines
from trainer.data.raw import MAX_ROW_BYTES, RawRow
from trainer.data.reasons import RowError
from trainer.errors import DataError

if TYPE_CHECKING:
    import _csv  # the only place that names the type of csv.reader in Python 3.11

HINT = 'quote cells with ", and write " as ""'


def read_csv(path: Path) -> Iterator[RawRow]:
    """Read the rows of a csv file.

    Raises:
        DataError: no header, a stray quote, a cell without end, or not UTF-8; with the line.
    """
    # The module's own limit of 131,072 is passed by long documents; without any, a stray quote swallows the file.
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(_text_lines(path), strict=True)
    header = _header(path, reader)
    while True:
        line = reader.line_num + 1
        cells = _next_cells(path, reader)
        if cells is None:
            return
        if cells:
            yield _row(line, header, cells)


def _text_lines(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        if line.is_cut:
            raise DataError(
                f"{path}:{line.number}: row_too_long: a line of more than {MAX_ROW_BYTES >> 20} MiB", hint=HINT
            )
        yield decode(path, line.number, line.content)


def _header(path: Path, reader: _csv.Reader) -> list[str]:
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
        raise DataError(f"{path}:{line}: invalid_csv: {error}", hint=HINT) from None


def _row(line: int, header: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)}"
        return RawRow(line, None, RowError("invalid_csv", detail))
    return RawRow(line, dict(zip(header, cells, strict=True)))
