"""Find numbers that are not finite in a safetensors file, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.model.foreign.safetensors_header import Stored, stored_tensors

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
