"""Read rows of JSON; detect the form (lines, array, values, wrapped) from the first bytes, not from the name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from trainer.data.read.files import kind_of_file
from trainer.data.read.json_array import HINT, WRAPPED, ArrayReader
from trainer.data.read.lines import Line, decode, open_unpacked, read_lines
from trainer.data.read.raw_row import MAX_ROW_BYTES, RawRow, checked_row, marked_row
from trainer.data.records.reasons import RowError
from trainer.data.rows.unwrap import is_rows, rows_of
from trainer.data.rows.values import twice_message
from trainer.errors import DataError
from trainer.exact_json import Doubled, loads, with_doubled

HEAD_BYTES = 4096
SNIFFED_BYTES = 2**20
"""Of the first lines, to tell what the file is."""
MAX_VALUE_BYTES = 256 * 2**20
"""Largest file that is one JSON object whose rows can only be found once all of it is read."""


def read_json(path: Path, split: str | None = None) -> Iterator[RawRow]:
    """Read rows of JSON: on lines, in an array, one value after another, or wrapped in one object.

    Args:
        path: file, whatever it is called; only a lone object is held in memory as a whole.
        split: which of several lists of rows inside of one object.

    Raises:
        DataError: the file is not UTF-8, broken as a whole, or has no such split.
    """
    if _is_json_lines(path):
        rows: Iterator[RawRow] = (parse_line(path, line) for line in read_lines(path) if line.content.strip())
        return _without_splits(path, rows, split)
    with open_unpacked(path) as stream:
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES].decode(errors="replace")
    if head.lstrip().startswith("[") or WRAPPED.match(head):
        return _without_splits(path, _streamed(path, is_array=True), split)
    with open_unpacked(path) as stream:
        content = stream.read(MAX_VALUE_BYTES)
    try:
        value = with_doubled(content, _load_value(path, content))
    except _ValuesInARow:
        return _without_splits(path, _streamed(path, is_array=False), split)
    if isinstance(value, Doubled) and is_rows(value):
        raise DataError(f"{path}: {twice_message(value.key)}", hint=HINT)
    return itertools.starmap(marked_row, enumerate(rows_of(value, path, split), start=1))


class _ValuesInARow(Exception):
    """More follows the first value of a file."""


def _streamed(path: Path, *, is_array: bool) -> Iterator[RawRow]:
    with open_unpacked(path) as stream:
        reader = ArrayReader(path, stream)
        yield from reader.rows() if is_array else reader.values()


def _without_splits(path: Path, rows: Iterator[RawRow], split: str | None) -> Iterator[RawRow]:
    if split is not None:
        raise DataError(f"{path}: split {split!r}: this file has no splits", hint="remove data.sources[].split")
    return rows


def _is_json_lines(path: Path) -> bool:
    """Tell JSON lines from one JSON value that spans the file."""
    filled = (line for line in read_lines(path, longest=SNIFFED_BYTES) if line.content.strip())
    first, second = next(filled), next(filled, None)
    text = first.content.strip()
    if first.is_cut:
        return not _opens_array(text)
    if second is None:
        return not _holds_rows(text)
    if _is_json(text):
        return True
    # A first line that is no JSON value: the opening of a value over many lines, or a broken line of JSON lines.
    if text.startswith(b"["):
        return False
    return kind_of_file(path) != ".json" or (second.content.startswith(b"{") and _is_json(second.content))


def _opens_array(text: bytes) -> bool:
    return text.startswith(b"[") or WRAPPED.match(text.decode(errors="replace")) is not None


def _holds_rows(text: bytes) -> bool:
    """Whether a one-line file holds all its rows in one JSON value."""
    if _opens_array(text):
        return True
    return is_rows(loads(text)) if _is_json(text) else False


def _is_json(text: bytes) -> bool:
    try:
        loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parse_line(path: Path, line: Line) -> RawRow:
    """Parse one line of JSON lines.

    Raises:
        DataError: the line is not UTF-8.
    """
    if line.is_cut:
        detail = f"a line of more than {MAX_ROW_BYTES >> 20} MiB, which is the longest row that is read"
        return RawRow(line.number, None, RowError("row_too_long", detail))
    try:
        return checked_row(line.number, line.content, loads(line.content))
    except json.JSONDecodeError as error:
        detail = f"{error.msg.removesuffix(' at')} at column {error.colno}"
    except UnicodeDecodeError:
        decode(path, line.number, line.content)
        raise
    except RecursionError:
        detail = "nested too deeply"
    return RawRow(line.number, None, RowError("invalid_json", detail))


def _load_value(path: Path, content: bytes) -> object:
    if len(content) == MAX_VALUE_BYTES:
        raise DataError(f"{path}: one JSON value of more than {MAX_VALUE_BYTES >> 20} MiB", hint=HINT)
    try:
        return loads(content)
    except UnicodeDecodeError:
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            decode(path, number, line)
        raise
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and content.lstrip().startswith(b"{"):
            raise _ValuesInARow from None
        problem = error.msg.removesuffix(" at")
        message = f"{path}:{error.lineno}: invalid_json: {problem} at column {error.colno}"
    except RecursionError:
        message = f"{path}: invalid_json: nested too deeply"
    raise DataError(message, hint=HINT)
