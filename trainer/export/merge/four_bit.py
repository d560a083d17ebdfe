"""Quantise and dequantise the base by bitsandbytes, to get the weights that 4-bit training computed with."""

from __future__ import annotations

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from trainer.export.merge.plan import FourBit


def dequantised(weight: torch.Tensor, settings: FourBit, device: str) -> torch.Tensor:
    """Return what bitsandbytes makes of a weight, in the type that it was loaded in.

    A whole tensor at a time: the statistics of double quantisation run over all of it.

    Args:
        weight: 2-D, of any float type.
        settings: Of the training run.
        device: bitsandbytes rounds on the device that it is given; take the kind that was trained on.
    """
    loaded = weight.to(device, settings.dtype)
    packed, state = quantize_4bit(loaded, compress_statistics=settings.double_quant, quant_type=settings.quant_type)
    result: torch.Tensor = dequantize_4bit(packed, state)
    return result
