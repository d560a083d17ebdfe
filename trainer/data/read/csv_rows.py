"""Read rows of CSV and TSV files; detect the separator from the header and the first rows."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.data.pii.hide import hidden
from trainer.data.read.lines import decode, read_lines
from trainer.data.read.raw_row import MAX_ROW_BYTES, RawRow
from trainer.data.records.reasons import RowError
from trainer.data.rows.columns import MAPPABLE
from trainer.errors import DataError

if TYPE_CHECKING:
    import _csv  # the only place that names the type of csv.reader in Python 3.11

HINT = 'quote cells with ", and write " as ""'
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What separates cells, and its name in messages; where two tell as much, the first."""
RARE_SEPARATORS = {
    "^": "carets",
    "~": "tildes",
    ":": "colons",
    "\x01": "control characters (01)",
    "\x1f": "unit separators",
}
"""Separators only where the header has none of the usual ones, and the rows agree."""
NAMES = SEPARATORS | RARE_SEPARATORS
MOST = 0.9
"""Share of rows that fit their header where quotes are taken as text."""
ALWAYS_QUOTED = (",", ";")
"""Separators of tables that are always quoted: they are frequent in text."""
SEP_LINE = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
"""Excel's line that names the separator, before the header."""
LONE_RETURN = re.compile(r"(?<=\r)(?!\n|$)")
NUM_SNIFFED, SNIFFED_CHARS = 50, 2**20
"""Lines that a separator is tried on, and after how many characters they are enough."""


class Dialect(NamedTuple):
    """How a table is written."""

    separator: str
    skipped: int = 0
    """Lines before the header."""
    quoted: bool = True
    """Whether a quote at the beginning of a cell opens it; otherwise quotes are text like all else."""
    spaced: bool = False
    """Whether spaces after a separator belong to no cell: `a, "b, c"` is two cells."""

    def described(self) -> str:
        """Name the separator."""
        name = NAMES.get(self.separator, repr(self.separator))
        more = ", quotes as text" if not self.quoted else " and spaces" if self.spaced else ""
        return f"separated by {name}{more}"

    def reader(self, lines: Iterable[str]) -> _csv.Reader:
        """Return a reader of the cells in lines."""
        if self.quoted:
            return csv.reader(lines, strict=True, delimiter=self.separator, skipinitialspace=self.spaced)
        return csv.reader(lines, strict=True, delimiter=self.separator, quoting=csv.QUOTE_NONE)


def read_csv(path: Path) -> Iterator[RawRow]:
    """Read the rows of a table in text.

    Raises:
        DataError: no header, a stray quote, a cell without end, or not UTF-8; with the line.
    """
    # The module's own limit of 131,072 is passed by long documents; without any, a stray quote swallows the file.
    csv.field_size_limit(MAX_ROW_BYTES)
    dialect = dialect_of(path)
    reader = dialect.reader(islice(_text_lines(path), dialect.skipped, None))
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
        DataError: the file cannot be read, or its cells stand in single quotes.
    """
    lines = _text_lines(path)
    first = next(lines, "")
    sample = list(_sampled(lines))
    says = SEP_LINE.fullmatch(first.rstrip("\r\n"))
    dialect = Dialect(says[1], skipped=1) if says else Dialect(_separator([first, *sample]))
    _refuse_single_quotes(path, sample[dialect.skipped :], dialect.separator)
    return _with_spaces(path, _with_quotes(path, dialect))


def _separator(sample: list[str]) -> str:
    if usual := [separator for separator in SEPARATORS if separator in sample[0]]:
        return max(usual, key=lambda separator: _weight(sample, separator))
    weights = {separator: _weight(sample, separator) for separator in RARE_SEPARATORS if separator in sample[0]}
    agreeing = [
        separator
        for separator, (num_names, share, _) in weights.items()
        if num_names > 1 or (share == 1 and len(sample) > 2)
    ]
    return max(agreeing, key=lambda separator: weights[separator], default=",")


def _with_quotes(path: Path, dialect: Dialect) -> Dialect:
    """Tell whether quotes open cells: not where that breaks the table, and nearly all rows are sound without them."""
    if dialect.separator in ALWAYS_QUOTED or _is_whole(path, dialect):
        return dialect
    plain = dialect._replace(quoted=False)
    return plain if _is_plain(path, plain) else dialect


def _refuse_single_quotes(path: Path, rows: list[str], separator: str) -> None:
    """Refuse a table whose cells stand in single quotes: a comma would cut them, and the quotes would be trained.

    Raises:
        DataError: a cell in single quotes stands in nearly every row.
    """
    edge = re.escape(separator)
    # What double quotes hold may well be lists of words in single ones.
    bare = re.sub(rf'(^|{edge}) *"(?:[^"]|"")*(?:"|\Z)', r'\1""', "".join(rows), flags=re.MULTILINE)
    lines = [line.rstrip("\r") for line in bare.split("\n") if line.strip()]
    opening, closing = re.compile(rf"(?:^|{edge}) *'"), re.compile(rf"' *(?:{edge}|$)")
    begun = [(line, start.end()) for line in lines if (start := opening.search(line))]
    if len(lines) > 1 and sum(closing.search(*cell) is not None for cell in begun) >= MOST * len(lines):
        raise DataError(
            f"{path}: invalid_csv: cells stand in single quotes, which are no quotes in a table",
            hint='quote the cells with " (of text that begins and ends with single quotes, too)',
        )


def _with_spaces(path: Path, dialect: Dialect) -> Dialect:
    """Tell whether spaces after separators belong to no cell: where quotes follow them, or all cells begin with one."""
    if not dialect.quoted:
        return dialect
    spaced = dialect._replace(spaced=True)
    if _begin_with_space(path, dialect):
        return spaced
    opened = re.compile(rf'{re.escape(dialect.separator)} +"(?!["\r\n{re.escape(dialect.separator)}])')
    num_lines = num_opened = 0
    for line in _text_lines(path):
        num_lines += 1
        num_opened += opened.search(line) is not None
    if num_opened > num_lines / 2:
        return spaced
    num_fitting = _num_fitting(path, spaced) if num_opened else 0
    return spaced if num_fitting and num_fitting >= _num_fitting(path, dialect) else dialect


def _begin_with_space(path: Path, dialect: Dialect) -> bool:
    """Tell whether all cells of the header and the rows but the first ones begin with a space, or are empty."""
    num_cells = 0
    try:
        for cells in _cells(path, dialect):
            if not all(cell == "" or cell[0] == " " for cell in cells[1:]):
                return False
            num_cells += len(cells) - 1
    except csv.Error:
        return False
    return num_cells > 0


def _num_fitting(path: Path, dialect: Dialect) -> int:
    """Count rows with as many cells as the header; none where the table is broken."""
    rows = _cells(path, dialect)
    try:
        width = len(next(rows, []))
        return sum(len(cells) == width for cells in rows)
    except csv.Error:
        return 0


def _cells(path: Path, dialect: Dialect) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    return filter(None, dialect.reader(islice(_text_lines(path), dialect.skipped, None)))


def _is_whole(path: Path, dialect: Dialect) -> bool:
    try:
        return all(True for _ in _cells(path, dialect))
    except csv.Error:
        return False


def _is_plain(path: Path, dialect: Dialect) -> bool:
    """Tell whether rows have as many cells as the header, and few of them a cell in quotes."""
    num_rows = num_fitting = num_quoted = 0
    rows = _cells(path, dialect)
    try:
        width = len(next(rows, []))
        for cells in rows:
            num_rows += 1
            num_fitting += len(cells) == width
            num_quoted += any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
    except csv.Error:
        return False
    return num_fitting >= MOST * num_rows and num_quoted <= num_rows / 2


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
        text = decode(path, line.number, line.content)
        if "\r" in text[:-2] and '"' not in text:  # a line end like the others, unless a cell is quoted
            yield from LONE_RETURN.split(text)
        else:
            yield text


def _header(path: Path, reader: _csv.Reader, dialect: Dialect) -> list[str]:
    """Return the names of the columns, empty for those that have none: spreadsheets write such at the end."""
    header = [name.strip() for name in _next_cells(path, reader, dialect) or []]
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled or not any(header):
        problem = f"column {hidden(doubled[0])!r} twice in the header" if doubled else "no header line"
        raise DataError(f"{path}:{1 + dialect.skipped}: {problem}", hint="the first line names the columns, each once")
    if len(header) == 1 and len(MAPPABLE.intersection(re.split(r"[^\w]+|_{2,}", header[0]))) > 1:
        separators = ", ".join(
            name for separator, name in NAMES.items() if separator.isprintable() or separator == "\t"
        )
        raise DataError(
            f"{path}:{1 + dialect.skipped}: the header is one column, {hidden(header[0])[:80]!r}: cells are separated "
            f"by {separators}, and by nothing else unless the file says so",
            hint="name the character that separates them in a line before the header, for example: sep=#",
        )
    return header


def _next_cells(path: Path, reader: _csv.Reader, dialect: Dialect) -> list[str] | None:
    line = reader.line_num + 1 + dialect.skipped
    try:
        return next(reader, None)
    except csv.Error as error:
        problem = "a line end inside of a cell without quotes" if "new-line" in str(error) else error
        raise DataError(f"{path}:{line}: invalid_csv: {problem} ({dialect.described()})", hint=HINT) from None


def _row(line: int, header: list[str], cells: list[str], dialect: Dialect) -> RawRow:
    if len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)} ({dialect.described()})"
        return RawRow(line, None, RowError("invalid_csv", detail))
    numbered = enumerate(zip(header, cells, strict=True), start=1)
    return RawRow(line, {name or f"column_{number}": cell for number, (name, cell) in numbered if name or cell})
