"""Rows of JSON lines, of a JSON array, or of `{"data": [...]}`; which of them is told from the first bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import orjson

from trainer.data.array import HINT, WRAPPED, ArrayReader, bounded_int
from trainer.data.files import kind_of_file
from trainer.data.lines import Line, decode, open_unpacked, read_lines
from trainer.data.raw import MAX_ROW_BYTES, RawRow
from trainer.data.reasons import RowError
from trainer.errors import DataError

HEAD_BYTES = 4096
SNIFFED_BYTES = 2**20
"""Of the first lines, to tell what the file is."""
MAX_VALUE_BYTES = 256 * 2**20
"""Largest file that is one JSON object whose rows can only be found once all of it is read."""


def read_json(path: Path) -> Iterator[RawRow]:
    """Read rows of JSON, whatever the file is called; only a lone object is held in memory as a whole.

    Raises:
        DataError: the file is not UTF-8, or broken as a whole.
    """
    if _is_json_lines(path):
        for line in read_lines(path):
            if line.content.strip():
                yield parse_line(path, line)
        return
    with open_unpacked(path) as stream:
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES].decode(errors="replace")
        if head.lstrip().startswith("[") or WRAPPED.match(head):
            yield from ArrayReader(path, stream).rows()
            return
        content = stream.read(MAX_VALUE_BYTES)
    for index, value in enumerate(_rows_of(_load_value(path, content)), start=1):
        yield RawRow(index, value)


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
    value = orjson.loads(text) if _is_json(text) else None
    return isinstance(value, dict) and isinstance(value.get("data"), list)


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
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
        return RawRow(line.number, orjson.loads(line.content))
    except orjson.JSONDecodeError:
        text = decode(path, line.number, line.content)
    try:
        # The standard parser takes NaN and lone surrogates, which files in the wild hold and orjson refuses.
        return RawRow(line.number, json.loads(text, parse_int=bounded_int))
    except json.JSONDecodeError as error:
        return RawRow(
            line.number, None, RowError("invalid_json", f"{error.msg.removesuffix(' at')} at column {error.colno}")
        )
    except RecursionError:
        return RawRow(line.number, None, RowError("invalid_json", "nested too deeply"))


def _load_value(path: Path, content: bytes) -> object:
    if len(content) == MAX_VALUE_BYTES:
        raise DataError(f"{path}: one JSON value of more than {MAX_VALUE_BYTES >> 20} MiB", hint=HINT)
    try:
        value: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = _load_leniently(path, content)
    return value


def _rows_of(value: object) -> list[object]:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    return value if isinstance(value, list) else [value]


def _load_leniently(path: Path, content: bytes) -> object:
    lines = zip(itertools.count(1), content.splitlines(keepends=True))
    text = "".join(decode(path, number, line) for number, line in lines)
    try:
        return json.loads(text, parse_int=bounded_int)
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at")
        message = f"{path}:{error.lineno}: invalid_json: {problem} at column {error.colno}"
    except RecursionError:
        message = f"{path}: invalid_json: nested too deeply"
    raise DataError(message, hint=HINT)
