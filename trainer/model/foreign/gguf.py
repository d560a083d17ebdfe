"""Read the header of a GGUF file within bounds: it is whole, and its tensors lie inside the file.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3 (little-endian).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

from trainer.model.foreign.files import ForeignFile

MAX_TENSORS, MAX_KEYS, MAX_DIMENSIONS = 200_000, 100_000, 8
MAX_HEADER = 256 << 20
"""Bytes of keys and values; a vocabulary of 250,000 tokens needs ten million."""
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type; 8 is text, 9 a list."""
TEXT, LIST = 8, 9
MAX_NESTED = 4


class _Malformed(Exception):
    """The header is not that of a GGUF file; the message says why."""


class _Header:
    """Reads whole numbers and texts, never beyond the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.left = min(size, MAX_HEADER)

    def skip(self, num_bytes: int) -> None:
        self._take(num_bytes)
        self.file.seek(num_bytes, 1)

    def number(self, width: int = 8) -> int:
        self._take(width)
        return int.from_bytes(self.file.read(width), "little")

    def text(self) -> str:
        length = self.number()
        self._take(length)
        return self.file.read(length).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if kind in WIDTHS:
            self.skip(WIDTHS[kind])
        elif kind == TEXT:
            self.skip(self.number())
        elif kind == LIST and depth < MAX_NESTED:
            entry_kind, count = self.number(4), self.number()
            if entry_kind in WIDTHS:
                self.skip(count * WIDTHS[entry_kind])
                return
            self._at_most(count, 8)  # each text and list begins with its length
            for _ in range(count):
                self.value(entry_kind, depth + 1)
        else:
            raise _Malformed(f"a value of unknown type {kind}")

    def _take(self, num_bytes: int) -> None:
        self._at_most(num_bytes, 1)
        self.left -= num_bytes

    def _at_most(self, count: int, width: int) -> None:
        if count * width > self.left:
            raise _Malformed("ends inside its header")


def check_gguf(path: Path) -> None:
    """Check the header of a GGUF file.

    Raises:
        HardwareError: It is truncated, malformed, or of another version.
    """
    file = ForeignFile(path)
    if not path.is_file():
        raise file.wrong("is no file")
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            _walk(_Header(stream, size), size)
    except _Malformed as error:
        raise file.wrong(f"is no whole GGUF file: {error}", "fetch or convert the file again") from error


def _walk(header: _Header, size: int) -> None:
    if header.number(4) != int.from_bytes(b"GGUF", "little"):
        raise _Malformed("it does not begin with GGUF")
    if (version := header.number(4)) not in (2, 3):
        raise _Malformed(f"version {version}; 2 and 3 are read")
    num_tensors, num_keys = header.number(), header.number()
    if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
        raise _Malformed(f"{num_tensors} tensors and {num_keys} keys are more than any model has")
    keys = set()
    for _ in range(num_keys):
        keys.add(header.text())
        header.value(header.number(4))
    if "general.architecture" not in keys:
        raise _Malformed("the key general.architecture is missing")
    if not num_tensors:
        raise _Malformed("it holds no tensors")
    last = max(_offset(header) for _ in range(num_tensors))
    if header.file.tell() + last >= size:
        raise _Malformed(f"{size} bytes, but a tensor begins at {last} behind the header: truncated")


def _offset(header: _Header) -> int:
    """Pass over the description of a tensor; return where its data begins, behind the header."""
    name, num_dimensions = header.text(), header.number(4)
    if num_dimensions > MAX_DIMENSIONS:
        raise _Malformed(f"tensor {name} has {num_dimensions} dimensions")
    shape = [header.number() for _ in range(num_dimensions)]
    if math.prod(shape) > 2**48:
        raise _Malformed(f"tensor {name} has the shape {shape}")
    header.skip(4)  # its type
    return header.number()
