"""Write flat arrays to safetensors files, from memory or a spool, and read them as views of a memory map.

The safetensors package copies whole arrays; here only pages in use are read, and processes share them.

Source: https://huggingface.co/docs/safetensors/index#format (8 bytes length, JSON header, arrays one after another).
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from trainer.errors import StageError

Ints = np.ndarray[Any, np.dtype[np.integer]]

DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 1 << 20


@dataclass
class ArraySpool:
    """A growing array in an unnamed file on disk, which is deleted when it is closed."""

    folder: Path
    dtype: np.dtype[Any]
    size: int = 0
    file: IO[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Open the file."""
        self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  closed by its owner

    def append(self, values: Ints) -> None:
        """Add values at the end."""
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.size += len(values)

    def copy_to(self, file: IO[bytes]) -> None:
        """Write all values to another file."""
        self.file.seek(0)
        shutil.copyfileobj(self.file, file, 1 << 20)


def write_arrays(path: Path, arrays: Mapping[str, Ints | ArraySpool], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, the same bytes for the same values; wide types first, so that all are aligned."""
    # int64, int32, uint8: each begins at a multiple of its own size
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].size * arrays[name].dtype.itemsize
        header[name] = {
            "dtype": CODES[arrays[name].dtype],
            "shape": [arrays[name].size],
            "data_offsets": [start, end],
        }
    text = orjson.dumps(header)
    # the header ends at a multiple of 8, so that int64 arrays after it are aligned
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            values = arrays[name]
            if isinstance(values, ArraySpool):
                values.copy_to(file)
            else:
                file.write(np.ascontiguousarray(values).data)
    path.chmod(0o644)


def map_arrays(path: Path) -> tuple[dict[str, Ints], dict[str, str]]:
    """Return read-only views of the arrays of a file, and its metadata.

    Raises:
        StageError: The file is missing, cut short or damaged.
    """
    try:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with its last view
        return _views(view)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> StageError:
    """Return the error for a file that cannot be used."""
    return StageError(f"{path} is damaged: {reason}", hint="trainer pack RECIPE --force")


def _views(view: mmap.mmap) -> tuple[dict[str, Ints], dict[str, str]]:
    length = int.from_bytes(view[:8], "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, len(view) - 8):
        raise ValueError(f"its header of {length} bytes does not fit in {len(view)} bytes")
    header: dict[str, Any] = orjson.loads(view[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    arrays: dict[str, Ints] = {}
    position = 8 + length
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = DTYPES[entry["dtype"]]
        start, end = entry["data_offsets"]
        (size,) = entry["shape"]
        # offsets count from the end of the header; without gaps, as the format asks
        if start != position - 8 - length or end - start != size * dtype.itemsize or 8 + length + end > len(view):
            raise ValueError(f"{name}: {size} values in bytes {start} to {end} of {len(view) - 8 - length}")
        arrays[name] = np.frombuffer(view, dtype, size, position) if size else np.empty(0, dtype)
        position += end - start
    if position != len(view):
        raise ValueError(f"its arrays end at byte {position} of {len(view)}")
    return arrays, metadata
