"""Quantise and dequantise the base by bitsandbytes, to get the weights that 4-bit training computed with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from trainer.export.merge.plan import FourBit
from trainer.export.merge.shards import StoredTensor

STACKS_IN_MEMORY = 2
"""Of the layer that is being merged: files hold the matrices of one expert after the other, of each stack in turn."""


def dequantised(weight: torch.Tensor, settings: FourBit, device: str) -> torch.Tensor:
    """Return what bitsandbytes makes of a weight, in the type that it was loaded in.

    A whole tensor at a time: the statistics of double quantisation run over all of it.

    Args:
        weight: 2-D, or (experts, rows, columns), of any float type.
        settings: Of the training run.
        device: bitsandbytes rounds on the device that it is given; take the kind that was trained on.
    """
    loaded = weight.to(device, settings.dtype)
    packed, state = quantize_4bit(loaded, compress_statistics=settings.double_quant, quant_type=settings.quant_type)
    result: torch.Tensor = dequantize_4bit(packed, state)
    return result


@dataclass(frozen=True, eq=False)
class Stack:
    """The tensors of a file that are one parameter in the model, quantised as one.

    Example:
        Mixtral's `w1` and `w3`, (I, H) for each expert, become `gate_up_proj`, (E, 2 I, H): one row of `parts` for
        each expert, w1 before w3.
    """

    parts: tuple[tuple[StoredTensor, ...], ...]

    def rows(self, expert: int, first: int, count: int, settings: FourBit, device: str) -> torch.Tensor:
        """Return some rows of one expert, quantised and dequantised with all others."""
        return _dequantised_stack(self, settings, device)[expert, first : first + count]


@lru_cache(maxsize=STACKS_IN_MEMORY)
def _dequantised_stack(stack: Stack, settings: FourBit, device: str) -> torch.Tensor:
    whole = torch.stack([torch.cat([part.read().to(settings.dtype) for part in expert]) for expert in stack.parts])
    return dequantised(whole, settings, device).cpu()


def forget_stacks() -> None:
    """Give the memory of the last stacks back."""
    _dequantised_stack.cache_clear()
