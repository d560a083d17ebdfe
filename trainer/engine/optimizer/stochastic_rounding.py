"""Round float32 to bfloat16 stochastically, with noise that depends on seed, step and tensor alone.

A bfloat16 is the upper 16 bits of a float32. With the lower 16 bits as a fraction f = low / 65536:

    value  = kept + f * ulp          rounded up with probability f, so the mean is kept + f * ulp = value
"""

from __future__ import annotations

import hashlib

import torch

LARGEST = torch.finfo(torch.bfloat16).max
LOW_BITS = 0xFFFF
"""Bits of a float32 below those of a bfloat16."""


def to_bfloat16(values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Round up in magnitude with the probability of the part that is cut off, so that the mean is the exact value.

    Adds 16 random bits below the last kept bit, then cuts. Exact values, zeros and their signs, and subnormal numbers
    stay correct; infinity, NaN and numbers above the largest bfloat16 are rounded to nearest.

    Args:
        values: float32, any shape, contiguous.
        noise: int32, as many numbers from 0 to 65535, any shape.

    Returns:
        bfloat16, the shape of `values`.

    Source: Croci et al. 2022, https://doi.org/10.1098/rsos.211631.

    Example:
        1 + 2^-8 lies halfway between two bfloat16 numbers: noise from 32768 on rounds it up.

        >>> to_bfloat16(torch.full((2,), 1 + 2.0**-8), torch.tensor([32767, 32768], dtype=torch.int32)).tolist()
        [1.0, 1.0078125]
    """
    added = values.view(torch.int32) + noise.view(values.shape)  # the carry out of the low bits rounds up
    rounded = added.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)  # cuts the low bits
    return torch.where(values.abs() <= LARGEST, rounded, values.to(torch.bfloat16))


class Noise:
    """Uniform 16-bit numbers on a device; the numbers of `stream` seed it, so that checkpoints need no state of it."""

    def __init__(self, device: torch.device, *stream: int) -> None:
        digest = hashlib.blake2b(",".join(map(str, stream)).encode(), digest_size=8).digest()
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)

    def take(self, count: int) -> torch.Tensor:
        """Return the next numbers, (count,) int32; four of them come from one draw."""
        # 64 random bits are four numbers
        raw = torch.empty(-(-count // 4), dtype=torch.int64, device=self.generator.device)
        raw.random_(-(2**63), None, generator=self.generator)
        return raw.view(torch.int16)[:count].to(torch.int32).bitwise_and_(LOW_BITS)
