"""Update weights a block at a time in float32, and write them back rounded.

The float32 copies live for one block only, so that a large matrix costs no more memory than a small one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainer.engine.optimizer.stochastic_rounding import Noise, to_bfloat16

BLOCK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Weights of a block, a multiple of bitsandbytes' 256: small enough for a CPU's caches, large for a card's launches."""

Rule = Callable[[torch.Tensor, torch.Tensor, slice], None]
"""Update float32 weights in place by their float32 gradient; the slice is their position in the flat tensor."""


def update(weights: torch.Tensor, gradient: torch.Tensor, rule: Rule, stream: tuple[int, ...]) -> None:
    """Apply a rule to one tensor: bfloat16 weights are rounded stochastically, float32 weights changed in place.

    Args:
        weights: Any shape, contiguous, bfloat16 or float32; changed.
        gradient: The same shape.
        rule: The optimizer's update.
        stream: Seed, step and tensor number, which decide the noise.
    """
    flat, slopes = weights.view(-1), gradient.reshape(-1)
    size = BLOCK.get(weights.device.type, BLOCK["cuda"])
    is_rounded = weights.dtype == torch.bfloat16
    noise = Noise(weights.device, *stream) if is_rounded else None
    for start in range(0, flat.numel(), size):
        part = slice(start, min(start + size, flat.numel()))
        exact = flat[part].float()  # for float32 weights a view, so they change in place
        rule(exact, slopes[part].float(), part)
        if noise is not None:
            flat[part] = to_bfloat16(exact, noise.take(exact.numel()))
