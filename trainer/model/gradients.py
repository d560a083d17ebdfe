"""Find trained weights that no gradient reaches, by one forward and backward pass in training mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

EXPERTS = "experts."
"""In the name of a weight of one expert: it has no gradient where the router chose others, and gets one later."""


def unreached(model: nn.Module, loss: Callable[[], torch.Tensor], *, autocast: torch.dtype | None = None) -> list[str]:
    """Return the names of the trained weights on which a loss does not depend.

    Each gradient is dropped as soon as it is whole, so the pass needs no memory for them. Random states and the mode of
    the model are restored.

    Args:
        model: The model, on the device where it trains.
        loss: Computes the loss, a scalar, by the model.
        autocast: Type of the matrix products; None where it is that of the weights.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    device = next(model.parameters()).device
    reached: set[str] = set()
    was_training = model.training
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.callback(model.train, was_training)
        for name, weight in trained.items():
            stack.callback(_record(name, weight, reached).remove)
        if autocast is not None:
            stack.enter_context(torch.autocast(device.type, dtype=autocast))
        model.train()
        loss().backward()
    # post-accumulate hooks run only for weights that the graph of the loss contains
    return [name for name in trained if name not in reached and EXPERTS not in name]


def _record(name: str, weight: nn.Parameter, reached: set[str]) -> RemovableHandle:
    def drop(parameter: torch.Tensor) -> None:
        reached.add(name)
        parameter.grad = None

    return weight.register_post_accumulate_grad_hook(drop)
