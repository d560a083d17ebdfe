"""Read the header of a safetensors file within bounds: it is whole, and its tensors lie inside it.

Source: https://huggingface.co/docs/safetensors, "Format": 8 bytes little-endian length, a JSON header, the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

MAX_HEADER = 32 << 20
"""Bytes; 90,000 tensors, as many as the largest published models have in all their files, need a third of it."""
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class DamagedFileError(Exception):
    """The file is not a whole safetensors file; the message says why."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def stored_tensors(path: Path) -> list[Stored]:
    """Return the tensors of a file.

    Raises:
        DamagedFileError: It is truncated, or no safetensors file.
    """
    if not path.is_file():  # a FIFO or a device would be read without end
        raise DamagedFileError(f"{path.name}: is no file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise DamagedFileError(f"{path.name}: {size} bytes, too few for its header")
        if length > MAX_HEADER:
            raise DamagedFileError(f"{path.name}: a header of {length >> 20} MiB; no model has so many tensors")
        try:
            tensors = list(_entries(orjson.loads(file.read(length)), 8 + length))
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # no JSON, or another than the format's
            raise DamagedFileError(f"{path.name}: its header is not that of a safetensors file") from error
    needed = max((tensor.end for tensor in tensors), default=8 + length)
    if size < needed:
        raise DamagedFileError(f"{path.name}: {size} bytes, its header speaks of {needed}: truncated")
    for tensor in tensors:
        width = _BYTES.get(tensor.dtype)
        if width is not None and tensor.end - tensor.start != width * math.prod(tensor.shape):
            raise DamagedFileError(f"{path.name}: {tensor.name} has another size than its shape says")
    return tensors


def _entries(header: Any, begin: int) -> Iterator[Stored]:
    for name, facts in header.items():
        if name != "__metadata__":
            start, end = facts["data_offsets"]
            if not (0 <= start <= end and all(size >= 0 for size in facts["shape"])):
                raise ValueError(name)
            yield Stored(name, str(facts["dtype"]), tuple(facts["shape"]), begin + start, begin + end)
