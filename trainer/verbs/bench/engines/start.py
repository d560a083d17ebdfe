"""Give the adapters of every engine the same first weights."""

from __future__ import annotations

import zlib

import torch


def same_start(model: torch.nn.Module) -> None:
    """Give the adapters of all engines the same first weights: A uniform as PEFT draws it, B zero.

    Each matrix is drawn from a seed made of its name, so that the order of the modules does not matter.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A." in name:
                seed = zlib.crc32(name[name.index("layers.") :].split(".lora_A.")[0].encode())
                bound = weight.shape[1] ** -0.5  # kaiming_uniform_ with a = sqrt(5)
                drawn = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed))
                weight.copy_((2 * drawn - 1) * bound)
            elif "lora_B." in name:
                weight.zero_()
