"""Read the rows of a source one at a time, each with its line.

The suffix is only a hint: whether a file is a JSON array or JSON lines, packed or not, is told from its first bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from trainer.data.read.csv_rows import dialect_of, read_csv
from trainer.data.read.files import (
    BINARY_SUFFIXES,
    DOCUMENT_SUFFIXES,
    HINT,
    TEXT_TABLE_SUFFIXES,
    find_files,
    is_saved_dataset,
    kind_of_file,
    unknown_kind,
)
from trainer.data.read.hub import read_hub, read_saved
from trainer.data.read.json_rows import parse_line, read_json
from trainer.data.read.lines import BUFFER_BYTES, decode, open_unpacked, read_lines
from trainer.data.read.parquet_rows import read_arrow, read_parquet
from trainer.data.read.raw_row import MAX_ROW_BYTES, RawRow
from trainer.data.records.reasons import RowError
from trainer.errors import DataError
from trainer.recipe.data import HUB_PREFIX, Source


def open_source(source: Source) -> Iterator[tuple[str, Iterator[RawRow]]]:
    """Yield the name and the rows of each file of a source; the next file is opened when it is asked for.

    A data set of the hub is one file named `hub:OWNER/NAME`, a folder written by `save_to_disk` one by its path.

    Raises:
        DataError: the path, the subset or the split is wrong, or a file cannot be read.
        HardwareError: the hub cannot be reached.
    """
    if source.path.startswith(HUB_PREFIX):
        name = source.path.removeprefix(HUB_PREFIX)
        yield source.path, read_hub(name, subset=source.subset, split=source.split, revision=source.revision)
        return
    path = Path(source.path)
    if is_saved_dataset(path):
        yield source.path, read_saved(path, split=source.split)
        return
    for file in find_files(path):
        yield str(file), read_rows(file, source.split)


def read_rows(path: Path, split: str | None = None) -> Iterator[RawRow]:
    """Read the rows of one file, without holding the file in memory.

    Args:
        path: file of a known kind.
        split: which of several lists of rows in a JSON file.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, not UTF-8, or broken as a whole.
    """
    _check_file(path)
    kind = kind_of_file(path)
    if split is not None and kind != ".json":
        raise DataError(f"{path}: split {split!r}: files have no splits", hint="remove data.sources[].split")
    match kind:
        case ".parquet":
            return read_parquet(path)
        case ".arrow" | ".feather":
            return read_arrow(path)
        case _ if kind in TEXT_TABLE_SUFFIXES:
            return read_csv(path)
        case ".txt" | ".md":
            return _read_document(path)
        case "":
            raise unknown_kind(path)
        case _:
            return read_json(path, split)


def how_read(path: Path) -> str:
    """Say in words how a file is read, where its name does not say it; else nothing.

    Raises:
        DataError: the file cannot be read.
    """
    kind = kind_of_file(path)
    if kind in TEXT_TABLE_SUFFIXES:
        return dialect_of(path).described()
    if kind in DOCUMENT_SUFFIXES:
        return "JSON lines" if _holds_json_lines(path) else "one document"
    return ""


def _read_document(path: Path) -> Iterator[RawRow]:
    """Read a text: one document, one row; unless it holds JSON lines under another name."""
    if _holds_json_lines(path):
        return (parse_line(path, line) for line in read_lines(path) if line.content.strip())
    return iter([_document(path)])


def _holds_json_lines(path: Path) -> bool:
    lines = (line for line in read_lines(path) if line.content.strip())
    opening = [line for line in islice(lines, 2) if line.content.lstrip().startswith(b"{")]
    return bool(opening) and all(isinstance(parse_line(path, line).value, dict) for line in opening)


def _document(path: Path) -> RawRow:
    with open_unpacked(path) as stream:
        content = stream.read(MAX_ROW_BYTES + 1)
    if len(content) > MAX_ROW_BYTES:
        detail = f"a document of more than {MAX_ROW_BYTES >> 20} MiB: cut it into several files, or into JSON lines"
        return RawRow(1, None, RowError("row_too_long", detail))
    lines = content.splitlines(keepends=True)
    return RawRow(1, {"text": "".join(decode(path, number, line) for number, line in enumerate(lines, start=1))})


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="correct the path in the recipe's data section")
    if not path.is_file():
        raise DataError(f"{path}: not a file", hint=HINT)
    kind = kind_of_file(path)
    if not kind:
        raise unknown_kind(path)
    if kind in BINARY_SUFFIXES:
        return
    with open_unpacked(path) as stream:
        while part := stream.read1(BUFFER_BYTES):
            if part.strip():
                return
    raise DataError(f"{path}: the file is empty", hint="give a file with at least one row")
