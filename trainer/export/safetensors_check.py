"""Check a safetensors file without torch: it is whole, and every number is finite.

Source: https://huggingface.co/docs/safetensors, "Format": 8 bytes little-endian length, a JSON header, the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

MAX_HEADER = 100 << 20
BLOCK = 1 << 24
"""Numbers looked at together."""
# sign, exponent and fraction lie differently: (unsigned type, mask of the exponent; all ones there is NaN or infinite)
_EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E4M3": (np.uint8, 0x7F),  # has no infinity: NaN alone, where the fraction is all ones too
}
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
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise DamagedFileError(f"{path.name}: {size} bytes, too few for its header")
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


def not_finite(path: Path) -> Iterator[str]:
    """Yield the names of tensors that hold NaN or infinity.

    Raises:
        DamagedFileError: The file is not whole.
    """
    for tensor in stored_tensors(path):
        if tensor.dtype in _EXPONENTS:
            # an exponent of all ones is NaN or infinite (IEEE 754); the bits are read as whole numbers, without a cast
            kind, mask = _EXPONENTS[tensor.dtype]
            if any(((bits & kind(mask)) == mask).any() for bits in _blocks(path, tensor, kind)):
                yield tensor.name


def is_zero(path: Path, tensor: Stored) -> bool:
    """Tell whether all numbers of a float tensor are zero, of either sign."""
    kind, _ = _EXPONENTS.get(tensor.dtype, (np.uint8, 0))
    # without the sign bit: -0.0 is zero too
    unsigned = kind(np.iinfo(kind).max >> 1) if tensor.dtype in _EXPONENTS else kind(255)
    return not any((bits & unsigned).any() for bits in _blocks(path, tensor, kind))


def _blocks(path: Path, tensor: Stored, kind: type[np.unsignedinteger]) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    """Yield the bits of a tensor, some at a time."""
    if tensor.end > tensor.start:
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=tensor.start, shape=(tensor.end - tensor.start,))
        bits = data.view(kind)
        yield from (bits[start : start + BLOCK] for start in range(0, len(bits), BLOCK))
