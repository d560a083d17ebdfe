"""Read and write safetensors a block of rows at a time, so that no file is ever in memory as a whole.

`safetensors` itself checks every file that is opened; rows are then read with plain `pread`, since pages of a memory
map count as resident until the file is closed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from trainer.errors import StageError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BLOCK_ELEMENTS = 2**22
"""Elements of a block: 16 MiB in float32. Part of the format of seeded rounding, so never change it."""

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in TYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file; `offset` counts bytes from the start of the file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Read rows `start` to `stop` of the first dimension.

        Raises:
            StageError: The file ends before them.
        """
        if not self.shape:
            return self._read(0, self.dtype.itemsize).reshape(())
        width = math.prod(self.shape[1:]) * self.dtype.itemsize  # bytes of a row
        return self._read(start * width, (stop - start) * width).reshape(stop - start, *self.shape[1:])

    def read(self) -> torch.Tensor:
        """Read all of it."""
        return self.rows(0, self.shape[0] if self.shape else 1)

    def _read(self, start: int, count: int) -> torch.Tensor:
        if not count:
            return torch.empty(0, dtype=self.dtype)
        # `frombuffer` shares this memory, so the numbers are never copied
        buffer = bytearray(count)
        view, num_read = memoryview(buffer), 0
        with self.path.open("rb", buffering=0) as file:
            while num_read < count:
                # Linux reads at most 2 GiB a call
                num_new = os.preadv(file.fileno(), [view[num_read:]], self.offset + start + num_read)
                if not num_new:
                    raise StageError(f"{self.path} ends inside {self.name}", hint="fetch or write that file again")
                num_read += num_new
        return torch.frombuffer(buffer, dtype=self.dtype)


def tensors_of(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file in the order of their bytes, after safetensors has checked the whole header.

    Raises:
        StageError: The file is missing, truncated or no safetensors file, or a type in it is unknown.
    """
    try:
        # its checks cover the whole header: offsets without gaps, shapes that fit, no bytes too many
        with safe_open(path, framework="pt"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise StageError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", hint="fetch or write that file again"
        ) from error
    header.pop("__metadata__", None)
    unknown = sorted({entry["dtype"] for entry in header.values()} - set(TYPES))
    if unknown:
        raise StageError(f"{path} holds tensors of type {unknown[0]}", hint="merge onto an unquantised base model")
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
    return {
        name: StoredTensor(
            path, name, tuple(entry["shape"]), TYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0]
        )
        for name, entry in ordered
    }


def checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a model folder, shard by shard.

    Raises:
        StageError: A shard is missing or damaged, or does not hold what the index says.
    """
    index = folder / INDEX
    if not index.is_file():
        return tensors_of(folder / SINGLE)
    weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        shard_tensors = tensors_of(folder / shard)
        tensors |= {name: tensor for name, tensor in shard_tensors.items() if weight_map.get(name) == shard}
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise StageError(
            f"{folder}: {weight_map[missing[0]]} lacks {missing[0]}, which {INDEX} places there",
            hint="fetch or write that folder again",
        )
    return tensors


def row_blocks(shape: tuple[int, ...], *, as_one: bool = False) -> Iterator[tuple[int, int]]:
    """Yield `(start, stop)` of blocks of rows; they depend on the shape alone.

    Args:
        shape: Of the tensor; a scalar is one row.
        as_one: All rows are one block.

    Example:
        Rows of 2 ** 21 numbers: two of them fill a block of 2 ** 22.

        >>> list(row_blocks((5, 2**21)))
        [(0, 2), (2, 4), (4, 5)]
    """
    rows = shape[0] if shape else 1
    width = max(1, math.prod(shape[1:]))
    step = max(1, rows if as_one else BLOCK_ELEMENTS // width)  # rows of a block
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


@dataclass(frozen=True)
class Slot:
    """Name, shape and type of a tensor in a shard that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def return_memory_at_once() -> None:
    """Make glibc give every freed block back to the system, for the rest of this process.

    It keeps blocks below 32 MiB for later by default, and their holes made 1.4 GB out of 0.4 in a merge of 1.6 GB.
    Other C libraries have no such setting and are left alone.

    Source: mallopt(3), M_MMAP_THRESHOLD (-3) and M_TRIM_THRESHOLD (-1).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**20)
        mallopt(-1, 2**20)


class ShardWriter:
    """Writes one shard front to back: the slots in their order, each as any number of blocks."""

    def __init__(self, path: Path, slots: list[Slot]) -> None:
        self._hash = hashlib.sha256()
        self._left = sum(slot.num_bytes for slot in slots)
        self._file: BinaryIO = path.open("wb")
        self.size = 0
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for slot in slots:
            begin, end = end, end + slot.num_bytes
            header[slot.name] = {"dtype": CODES[slot.dtype], "shape": list(slot.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format asks for aligned data
        self._put(len(text).to_bytes(8, "little") + text)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def write(self, block: torch.Tensor) -> None:
        """Append a block."""
        # as bytes: numpy, through which the memory is read, knows no bfloat16
        flat = block.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._left -= flat.numel()
        self._put(memoryview(flat.numpy()))

    def close(self) -> str:
        """Force the file to the disk; return its sha256."""
        assert self._left == 0, f"{self._left} bytes of a shard were not written"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Close without a promise about the content."""
        self._file.close()
