"""Round once from float32 to the type of the file, to nearest or stochastically, and measure what survives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from trainer.engine.optimizer.stochastic_rounding import to_bfloat16

MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
SMALLEST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}


def rounded(values: torch.Tensor, dtype: torch.dtype, *, seed: int | None, name: str, block: int) -> torch.Tensor:
    """Round float32 values once.

    Args:
        values: float32, any shape.
        dtype: Type of the result.
        seed: None rounds to nearest. A number rounds up with the probability of the part that is cut off, so that the
            expected value is the exact one; the bits depend on seed, `name` and `block` alone.
        name: Name of the tensor.
        block: Number of the block of rows within the tensor.

    Example:
        bfloat16 keeps 7 bits behind the point: from 1 it steps by 2 ** -7. An update of a quarter step is lost by
        rounding to nearest; rounded stochastically, a quarter of the weights take the whole step.

        >>> values = torch.full((4096,), 1 + 2**-9)
        >>> rounded(values, torch.bfloat16, seed=None, name="w", block=0).unique().tolist()
        [1.0]
        >>> stochastic = rounded(values, torch.bfloat16, seed=0, name="w", block=0).float()
        >>> stochastic.unique().tolist(), round(float((stochastic > 1).float().mean()), 2)
        ([1.0, 1.0078125], 0.25)

    Source: stochastic rounding, Croci et al. 2022, https://doi.org/10.1098/rsos.211631.
    """
    if seed is None or dtype not in MANTISSA_BITS:
        return values.to(dtype)
    # bfloat16 is the upper half of a float32: 16 bits of noise decide about the 16 that are cut off
    noise = _noise(values.numel(), 2 if dtype == torch.bfloat16 else 4, seed=seed, name=name, block=block)
    if dtype == torch.bfloat16:
        return to_bfloat16(values.contiguous(), torch.from_numpy(noise.astype(np.int32)).to(values.device))
    return _to_grid(values, noise, dtype)


def _noise(count: int, num_bytes: int, *, seed: int, name: str, block: int) -> np.ndarray:
    """Return uniform unsigned numbers; raw Philox output, which no release of numpy may change."""
    # a key for each tensor, a counter for each block: blocks can be computed in any order, and again
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key, counter=block << 192).random_raw(-(-count * num_bytes // 8))
    # each 64-bit number is four of 16 bits, or two of 32
    return raw.astype("<u8", copy=False).view(f"<u{num_bytes}")[:count]


def _to_grid(values: torch.Tensor, noise: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Round on the grid of `dtype`, whose steps stop shrinking below its smallest normal number."""
    exact = values.double().reshape(-1)
    exponent = torch.frexp(exact).exponent - 1  # frexp: mantissa in [0.5, 1), so x is in [2 ** exponent, 2 ** (e + 1))
    step = torch.ldexp(torch.ones_like(exact), exponent.clamp(min=SMALLEST_EXPONENT[dtype]) - MANTISSA_BITS[dtype])
    # floor(x / step + u) with u uniform in [0, 1): up with the probability of the part that is cut off
    chance = torch.from_numpy(noise.astype(np.float64)).to(exact.device) / 2.0**32
    return (torch.floor(exact / step + chance) * step).reshape(values.shape).to(dtype)


@dataclass
class Survival:
    """Share of an update that rounding leaves in the file, summed over the blocks of one tensor in float64.

    Example:
        The first weight takes its whole update, the second loses it to rounding.

        >>> survival = Survival()
        >>> base, exact = torch.tensor([1.0, 1.0]), torch.tensor([1.5, 1.0 + 2**-9])
        >>> survival.add(base, exact, exact.to(torch.bfloat16))
        >>> round(survival.share(), 4)
        1.0
        >>> survival = Survival()
        >>> survival.add(base[1:], exact[1:], exact[1:].to(torch.bfloat16))
        >>> survival.share()
        0.0
    """

    surviving: float = 0.0
    """<rounded(W + dW) - rounded(W), dW>"""
    requested: float = 0.0
    """<dW, dW>"""

    def add(self, base: torch.Tensor, exact: torch.Tensor, stored: torch.Tensor) -> None:
        """Count one block.

        Args:
            base: Base weights, float32.
            exact: Weights after the update, float32.
            stored: The same in the type of the file.
        """
        update = exact - base
        # against the rounded base: a base in the type of the file has no rounding error of its own
        actual = stored.float() - base.to(stored.dtype).float()
        # a projection: rounding errors that are unlike dW cancel in the sum
        self.surviving += float((actual * update).sum(dtype=torch.float64))
        self.requested += float(update.square().sum(dtype=torch.float64))

    def share(self) -> float:
        """Return <rounded(W + dW) - rounded(W), dW> / <dW, dW>: 1 when the whole update reached the file."""
        return self.surviving / self.requested if self.requested else float("nan")
