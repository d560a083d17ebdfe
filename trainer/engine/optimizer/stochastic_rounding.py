"""Stochastic rounding of float32 to bfloat16, with noise that depends on named numbers alone."""

from __future__ import annotations

import hashlib

import torch

LARGEST = torch.finfo(torch.bfloat16).max
LOW_BITS = 0xFFFF
"""Of a float32, those that a bfloat16 does not have."""


def to_bfloat16(values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Round up in magnitude with the probability of the part that is cut off, so that the mean is the exact value.

    Adds 16 random bits below the last bit kept, then cuts. Exact values, zeros and their signs, and subnormal numbers
    are right by that; infinity, NaN and what is larger than any bfloat16 go to nearest.

    Args:
        values: float32, any shape, contiguous.
        noise: int32, as many numbers from 0 to 65535, any shape.

    Returns:
        bfloat16, the shape of `values`.

    Source: Croci et al. 2022, https://doi.org/10.1098/rsos.211631.
    """
    added = values.view(torch.int32) + noise.view(values.shape)
    kept = added.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)
    return torch.where(values.abs() <= LARGEST, kept, values.to(torch.bfloat16))


class Noise:
    """Uniform 16-bit numbers on a device; a stream is chosen by numbers, so nothing of it needs to be saved."""

    def __init__(self, device: torch.device, *stream: int) -> None:
        digest = hashlib.blake2b(",".join(map(str, stream)).encode(), digest_size=8).digest()
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)

    def take(self, count: int) -> torch.Tensor:
        """Return the next numbers, (count,) int32; four of them come from one draw."""
        raw = torch.empty(-(-count // 4), dtype=torch.int64, device=self.generator.device)
        raw.random_(-(2**63), None, generator=self.generator)
        return raw.view(torch.int16)[:count].to(torch.int32).bitwise_and_(LOW_BITS)
