"""Reads rows of a table in text: the first line names the columns, and tells what separates them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.data.columns import MAPPABLE
from trainer.data.lines import decode, read_lines
from trainer.data.raw import MAX_ROW_BYTES, RawRow
from trainer.data.reasons import RowError
from trainer.errors import DataError

if TYPE_CHECKING:
    import _csv  # the only place that names the type of csv.reader in Python 3.11

HINT = 'quote cells with ", and write " as ""'
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What separates cells, and its name in messages; where two tell as much, the first."""
SEP_LINE = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
"""Excel's line that names the separator, before the header."""
NUM_SNIFFED, SNIFFED_CHARS = 50, 2**20
"""Lines that a separator is tried on, and after how many characters they are enough."""


class Dialect(NamedTuple):
    """How a table is written."""

    separator: str
    skipped: int = 0
    """Lines before the header."""

    def described(self) -> str:
        """Name the separator."""
        return f"separated by {SEPARATORS.get(self.separator, repr(self.separator))}"


def read_csv(path: Path) -> Iterator[RawRow]:
    """Read the rows of a table in text.

    Raises:
        DataError: no header, a stray quote, a cell without end, or not UTF-8; with the line.
    """
    # The module's own limit of 131,072 is passed by long documents; without any, a stray quote swallows the file.
    csv.field_size_limit(MAX_ROW_BYTES)
    dialect = dialect_of(path)
    reader = csv.reader(islice(_text_lines(path), dialect.skipped, None), strict=True, delimiter=dialect.separator)
    header = _header(path, reader, dialect)
    while True:
        line = reader.line_num + 1 + dialect.skipped
        cells = _next_cells(path, reader, dialect)
        if cells is None:
            return
        if any(cells):
            yield _row(line, header, cells, dialect)


def dialect_of(path: Path) -> Dialect:
    """Tell what separates the cells of a table: Excel's `sep=` line says it, else the header and the first rows do.

    Raises:
        DataError: the file cannot be read.
    """
    lines = _text_lines(path)
    first = next(lines, "")
    if says := SEP_LINE.fullmatch(first.rstrip("\r\n")):
        return Dialect(says[1], skipped=1)
    sample = [first, *_sampled(lines)]
    candidates = [separator for separator in SEPARATORS if separator in first]
    return Dialect(max(candidates, key=lambda separator: _weight(sample, separator), default=","))


def _sampled(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines until they are enough to tell a separator by."""
    num_chars = 0
    for line in islice(lines, NUM_SNIFFED):
        yield line
        num_chars += len(line)
        if num_chars > SNIFFED_CHARS:
            return


def _weight(sample: list[str], separator: str) -> tuple[int, float, int]:
    """Weigh a separator: known names in the header, share of rows with as many cells, number of columns."""
    reader = csv.reader(sample, delimiter=separator)
    try:
        header, *rows = [cells for cells in reader if cells]
    except (csv.Error, ValueError):
        return 0, 0.0, 0
    # The last row may be cut by the end of the sample.
    sizes = Counter(len(cells) for cells in rows[:-1] or rows)
    share = sizes[len(header)] / max(1, sizes.total())
    return len(MAPPABLE.intersection(header)), share, len(header)


def _text_lines(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        if line.is_cut:
            raise DataError(
                f"{path}:{line.number}: row_too_long: a line of more than {MAX_ROW_BYTES >> 20} MiB", hint=HINT
            )
        yield decode(path, line.number, line.content)


def _header(path: Path, reader: _csv.Reader, dialect: Dialect) -> list[str]:
    """Return the names of the columns, empty for those that have none: spreadsheets write such at the end."""
    header = [name.strip() for name in _next_cells(path, reader, dialect) or []]
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled or not any(header):
        problem = f"column {doubled[0]!r} twice in the header" if doubled else "no header line"
        raise DataError(f"{path}:{1 + dialect.skipped}: {problem}", hint="the first line names the columns, each once")
    return header


def _next_cells(path: Path, reader: _csv.Reader, dialect: Dialect) -> list[str] | None:
    line = reader.line_num + 1 + dialect.skipped
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}:{line}: invalid_csv: {error} ({dialect.described()})", hint=HINT) from None


def _row(line: int, header: list[str], cells: list[str], dialect: Dialect) -> RawRow:
    if len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)} ({dialect.described()})"
        return RawRow(line, None, RowError("invalid_csv", detail))
    named = enumerate(zip(header, cells, strict=True), start=1)
    return RawRow(line, {name or f"column_{number}": cell for number, (name, cell) in named if name or cell})
