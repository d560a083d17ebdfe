"""Count the bytes of quantised tensors: 4-bit weights and 8-bit states of bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from trainer.model.planning.activations import FLOAT32

BLOCK_4BIT, BLOCK_OF_SCALES = 64, 256
"""Weights of one scale, scales of one second scale. Source: https://arxiv.org/abs/2305.14314, section 3."""
CODE_4BIT, CODE_8BIT = 16, 256
"""Entries of the float32 tables that give 4-bit and 8-bit codes their value."""
BLOCK_8BIT, LEAST_8BIT = 256, 4096
"""Optimizer states of one scale in bitsandbytes; smaller tensors have float32 states."""
DEQUANTISED_SHARE = 0.25
"""Share of a card's free memory for 4-bit weights kept dequantised: a 4-bit training needs the remainder for itself."""


def four_bit_bytes(size: int, *, double: bool) -> int:
    """Return the bytes of one weight matrix as bitsandbytes holds it: codes, scales and their tables.

    Example:
        One million weights: codes of 4 bits, and a float32 scale for each 64 of them, or that scale in 8 bits.

        >>> four_bit_bytes(1 << 20, double=False) - 16 * FLOAT32 == (1 << 19) + (1 << 14) * FLOAT32
        True
        >>> four_bit_bytes(1 << 20, double=True)
        542020
    """
    scales = ceil(size / BLOCK_4BIT)
    codes = ceil(size / 2) + CODE_4BIT * FLOAT32
    if not double:
        return codes + scales * FLOAT32
    # scales in 8 bits, their own scales in float32, the table of 8-bit codes, and the mean that was taken off
    return codes + scales + FLOAT32 * (ceil(scales / BLOCK_OF_SCALES) + CODE_8BIT + 1)


def expert_passes(sizes: Sequence[int], itemsize: int) -> int:
    """Return the bytes that one layer's stacked experts need for a moment in the backward pass.

    The stacks of a layer are summed with their adapters one after the other, each while a product reads it. The largest
    is there twice: as weights, and as their gradient. Nothing of it is kept between layers.

    Args:
        sizes: Weights of each stack of a layer, such as gate_up_proj and down_proj.
        itemsize: Bytes of a weight in the type of the products.

    Example:
        Qwen3-30B-A3B: 128 experts of (1536, 2048) and (2048, 768), in bfloat16.

        >>> expert_passes([128 * 1536 * 2048, 128 * 2048 * 768], 2) / 2**30
        1.5
    """
    return 2 * max(sizes, default=0) * itemsize


def eight_bit_states(size: int) -> int:
    """Return the bytes of both moments of a trained tensor in 8 bits."""
    if size < LEAST_8BIT:
        return 2 * FLOAT32 * size
    return 2 * (size + FLOAT32 * ceil(size / BLOCK_8BIT))  # two moments: a byte each, and a float32 scale a block
