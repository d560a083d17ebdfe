"""Read rejected rows again from their files, beside the rows that were kept instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from trainer import exact_json
from trainer.data.prepare import Chunk, Rules, prepare
from trainer.data.read.files import find_files, is_pattern
from trainer.data.read.raw_row import RawRow
from trainer.data.read.reader import read_rows
from trainer.data.read.sources import beside
from trainer.data.records.kinds import Origin, Record
from trainer.errors import DataError
from trainer.recipe.data import DataSection, Source
from trainer.verbs.inspect.rows import InspectedRow, rows_at


class RejectedLine(TypedDict):
    """A line of data/rejected.jsonl."""

    source: str
    line: int
    reason: str
    detail: NotRequired[str]
    of: NotRequired[str | None]
    """Position of the row that it repeats."""


@dataclass(frozen=True)
class Rejected:
    """A row that the data stage left out."""

    position: str
    """`source:line`."""
    reason: str
    detail: str
    of: str | None
    """Position of the row that it repeats."""
    record: Record | None
    """None where the line is no row."""
    survivor: InspectedRow | None
    """The row at `of`; None where that was left out as well."""


def rejected_rows(folder: Path, data: DataSection, reason: str, limit: int) -> list[Rejected]:
    """Return rows of rejected.jsonl, of one reason unless it is empty.

    Raises:
        DataError: No row was left out for this reason.
    """
    lines = list(_lines(folder / "rejected.jsonl"))
    chosen = [line for line in lines if reason in ("", line["reason"])][:limit]
    if not chosen:
        reasons = sorted({str(line["reason"]) for line in lines})
        raise DataError(
            f"no row was left out{f' for {reason}' if reason else ''}",
            hint=f"the reasons are {', '.join(reasons)}" if reasons else "trainer inspect RECIPE shows the rows kept",
        )
    records = dict(_read_again(chosen, data))
    repeated = [of for line in chosen if (of := line.get("of"))]
    survivors = {row.position: row for row in rows_at(folder, repeated)}
    return [
        Rejected(
            position=_position(line),
            reason=str(line["reason"]),
            detail=str(line.get("detail") or ""),
            of=line.get("of"),
            record=records.get(_position(line)),
            survivor=survivors.get(line.get("of") or ""),
        )
        for line in chosen
    ]


def _lines(path: Path) -> Iterator[RejectedLine]:
    with path.open("rb") as file:
        for line in file:
            yield exact_json.loads(line)


def _position(line: RejectedLine) -> str:
    return f"{line['source']}:{line['line']}"


def _read_again(chosen: list[RejectedLine], data: DataSection) -> Iterator[tuple[str, Record]]:
    """Yield place and finished row; personal data is treated as it was in the rows that were kept."""
    lines_by_source: defaultdict[str, set[int]] = defaultdict(set)
    for line in chosen:
        lines_by_source[str(line["source"])].add(int(line["line"]))
    for label, lines in lines_by_source.items():
        for source, path in _files_of(label, data):
            raw = _rows_at_lines(path, lines)
            origin = Origin(label, source.format, tuple(source.mapping.items()))
            prepared = prepare(Chunk(Rules.of(data, None), origin, raw))
            for written in prepared.lines.splitlines():
                record = exact_json.loads(written)
                yield f"{record['source']}:{record['line']}", record


def _files_of(label: str, data: DataSection) -> Iterator[tuple[Source, Path]]:
    """Yield the one file that rows of this label come from, if it is still there."""
    extra = [beside(data, path) for path in (data.split.heldout_path, data.split.validation_path) if path]
    for source in [*data.sources, *extra]:
        path = Path(source.path)
        if not path.exists() and not is_pattern(source.path):
            continue
        for file in find_files(path):
            if f"/{file.as_posix()}".endswith(f"/{label}"):
                yield source, file
                return


def _rows_at_lines(path: Path, lines: set[int]) -> list[RawRow]:
    rows = []
    for raw in read_rows(path):
        if raw.line in lines:
            rows.append(raw)
        if raw.line >= max(lines):
            break
    return rows
