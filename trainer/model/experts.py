"""Find the parameters that hold the matrices of all experts of a layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def stacked_experts(model: nn.Module) -> Iterator[str]:
    """Yield the names of stacked weights of experts, each (experts, rows, columns)."""
    for name, module in model.named_modules():
        if "Expert" in type(module).__name__:
            for own_name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3:
                    yield f"{name}.{own_name}"
