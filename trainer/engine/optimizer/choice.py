"""Choose the optimizer class: transformers' choice, or ours for bfloat16 weights and bitsandbytes' states."""

from __future__ import annotations

import torch

from trainer.engine.lora import is_sharded
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW
from trainer.engine.optimizer.rounded import RoundedAdamW, RoundedSGD

OptimizerChoice = tuple[type[torch.optim.Optimizer], dict[str, object]]
"""Class and settings."""
BY_BITSANDBYTES = ("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit")


def optimizer_for(model: torch.nn.Module, optim: str, seed: int, proposed: OptimizerChoice) -> OptimizerChoice:
    """Return class and settings of the optimizer.

    Args:
        model: With its trained parameters.
        optim: `train.optim` of the recipe.
        seed: Of stochastic rounding.
        proposed: By transformers; taken as it is for weights that are spread over processes.
    """
    if is_sharded():
        return proposed
    if optim in BY_BITSANDBYTES:
        tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        return BlockwiseAdamW, proposed[1] | {"seed": seed, "in_float32": tables}
    if not is_rounded(model):
        return proposed
    settings = {name: value for name, value in proposed[1].items() if name != "fused"}  # blocks are always fused
    return (RoundedSGD if optim == "sgd" else RoundedAdamW), settings | {"seed": seed}


def is_rounded(model: torch.nn.Module) -> bool:
    """Tell whether any trained weight is bfloat16."""
    return any(weight.requires_grad and weight.dtype == torch.bfloat16 for weight in model.parameters())
