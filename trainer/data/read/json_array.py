"""Read the items of a JSON array, or JSON values one after another, in the memory of the longest item."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.data.read.raw_row import MAX_ROW_BYTES, RawRow, checked_row
from trainer.data.rows.values import twice_message
from trainer.errors import DataError
from trainer.exact_json import DECODER, doubled_key, with_doubled

CHUNK_BYTES = 2**20
TAIL_CHARS = 64
"""An error this near to the end of what was read may only mean that the rest is still to come."""
WRAPPED = re.compile(r'\s*\{\s*"data"\s*:\s*(?=\[)')
SPACE = re.compile(r"[ \t\r\n]*")
HINT = "correct the file: a JSON array of rows, or one row on each line"


class ArrayReader:
    """A window on the text of a file that holds `[...]`, `{"data": [...], ...}` or values one after another."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.text, self.position, self.is_end = "", 0, False
        self.passed_lines = 0

    def rows(self) -> Iterator[RawRow]:
        """Yield the items of the array.

        Raises:
            DataError: what stands there is no JSON array, with the line.
        """
        self._fill()
        opening = WRAPPED.match(self.text)
        self.position = opening.end() if opening else 0
        self._expect("[")
        index = 0
        while self._next() != "]":
            if index:
                self._expect(",")
            index += 1
            self._next()
            yield self._row(index)
        self._expect("]")
        self._check_rest(is_wrapped=opening is not None)

    def values(self) -> Iterator[RawRow]:
        """Yield values that stand one after another, over as many lines as each takes.

        Raises:
            DataError: what stands there is no JSON, with the line.
        """
        index = 0
        while self._next():
            index += 1
            yield self._row(index)

    def _row(self, index: int) -> RawRow:
        value, text = self._value()
        return checked_row(index, text, value)

    def _fill(self) -> None:
        """Read on; at least as much again as is waiting, so that a long item is not parsed over and over."""
        self.passed_lines += self.text.count("\n", 0, self.position)
        waiting = self.text[self.position :]
        try:
            content = self.stream.read(max(CHUNK_BYTES, len(waiting)))
            more = self.utf8.decode(content, final=not content)
        except UnicodeDecodeError as error:
            line = self.passed_lines + waiting.count("\n") + error.object.count(b"\n", 0, error.start) + 1
            message = f"{self.path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x})"
            raise DataError(message, hint="convert the file, for example: iconv -f CP1252 -t UTF-8") from None
        self.text, self.position, self.is_end = waiting + more, 0, not content

    def _next(self) -> str:
        """Go to the next character that is not space and return it; empty at the end of the file."""
        while True:
            match = SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or self.is_end:
                return self.text[self.position : self.position + 1]
            self._fill()

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._error(f"Expecting {character!r}", self.position)
        self.position += 1

    def _value(self) -> tuple[object, str]:
        """Return the value that stands here, and its text."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                if self.is_end or self._is_broken(error):
                    raise self._error(error.msg, error.pos) from None
                if len(self.text) - self.position > MAX_ROW_BYTES:
                    raise self._too_long() from None
            except RecursionError:
                raise self._error("nested too deeply", self.position) from None
            else:
                # A number at the very end of the window may go on.
                if end < len(self.text) or self.is_end:
                    start, self.position = self.position, end
                    return value, self.text[start:end]
            self._fill()

    def _is_broken(self, error: json.JSONDecodeError) -> bool:
        """Tell an error from an item that is not read to its end yet."""
        return error.pos < len(self.text) - TAIL_CHARS and not error.msg.startswith("Unterminated string")

    def _too_long(self) -> DataError:
        return DataError(
            f"{self.path}:{self._line(self.position)}: row_too_long: an item of more than {MAX_ROW_BYTES >> 20} MiB, "
            "which is the longest row that is read, or a string without its end",
            hint=HINT,
        )

    def _line(self, position: int) -> int:
        return self.passed_lines + self.text.count("\n", 0, position) + 1

    def _check_rest(self, *, is_wrapped: bool) -> None:
        tail = ""
        while not self.is_end and len(tail) <= MAX_ROW_BYTES:
            tail += self.text[self.position :]
            self.position = len(self.text)
            self._fill()
        tail += self.text[self.position :]
        text = '{"data": []' + tail if is_wrapped else "[]" + tail
        try:
            key = doubled_key(with_doubled(text, json.loads(text)))
        except (json.JSONDecodeError, RecursionError):
            raise self._error("text after the array", self.position) from None
        if key is not None:
            raise DataError(f"{self.path}: {twice_message(key)}", hint=HINT)

    def _error(self, message: str, position: int) -> DataError:
        line, column = self._line(position), position - self.text.rfind("\n", 0, position)
        problem = message.removesuffix(" at")
        return DataError(f"{self.path}:{line}: invalid_json: {problem} at column {column}", hint=HINT)
