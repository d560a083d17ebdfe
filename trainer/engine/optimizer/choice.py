"""Which optimizer class trains: transformers' choice, or ours where weights are bfloat16 or states bitsandbytes'."""

from __future__ import annotations

from typing import Any

import torch

from trainer.engine.lora import is_sharded
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW
from trainer.engine.optimizer.rounded import RoundedAdamW, RoundedSGD

BY_BITSANDBYTES = ("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit")


def optimizer_for(
    model: torch.nn.Module, optim: str, seed: int, proposed: tuple[Any, dict[str, Any]]
) -> tuple[Any, dict[str, Any]]:
    """Return class and settings.

    Args:
        model: With its trained parameters.
        optim: `train.optim` of the recipe.
        seed: Of stochastic rounding.
        proposed: Class and settings as transformers has them; kept for weights that are spread over processes.
    """
    if is_sharded():
        return proposed
    if optim in BY_BITSANDBYTES:
        tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        return BlockwiseAdamW, proposed[1] | {"seed": seed, "in_float32": tables}
    if not is_rounded(model):
        return proposed
    settings = {name: value for name, value in proposed[1].items() if name != "fused"}  # a block always is
    return (RoundedSGD if optim == "sgd" else RoundedAdamW), settings | {"seed": seed}


def is_rounded(model: torch.nn.Module) -> bool:
    """Tell whether any trained weight is bfloat16."""
    return any(one.requires_grad and one.dtype == torch.bfloat16 for one in model.parameters())
