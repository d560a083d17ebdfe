"""Count the bytes of a model's weights before they are loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from trainer.model.classes import auto_class
from trainer.model.four_bit import four_bit, quantised_names
from trainer.model.load import weights_folder
from trainer.recipe.model import Adapter, ModelSection, four_bit_of

FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Bytes of a 4-bit weight, with a float32 scale for each block of 64. Source: Dettmers et al., arXiv 2305.14314."""


def weight_bytes(section: ModelSection, cache: Path, adapter: Adapter | None, dtype: torch.dtype) -> int:
    """Return the bytes of the loaded weights, counted on the meta device.

    Args:
        section: The recipe's `model`.
        cache: Folder for converted models.
        adapter: The recipe's `adapter`; linear layers and stacked experts of qlora are in 4 bits. None: plain weights.
        dtype: Type of the weights.
    """
    name, kwargs = weights_folder(section, cache)
    config = AutoConfig.from_pretrained(name, **kwargs)
    # shapes without memory: a 70B model is counted in seconds
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=dtype, trust_remote_code=section.trust_remote_code)
    sizes = {name: (weight.numel(), weight.element_size()) for name, weight in model.named_parameters()}
    qlora = four_bit_of(adapter) if adapter else None
    packed = quantised_names(model, four_bit(qlora, dtype)) if qlora else set()
    return int(sum(count * (FOUR_BIT_BYTES if name in packed else size) for name, (count, size) in sizes.items()))
