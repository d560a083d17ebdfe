"""The optimizer in the backward pass: each parameter moves as soon as its gradient is whole, and the gradient is freed.

So the gradients of all parameters never exist together. The step is the same: nothing that is still to be computed
reads a weight whose gradient is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.engine.optimizer.block_update import BLOCK


class InBackward:
    """Steps an optimizer, parameter by parameter, from hooks.

    Args:
        optimizer: Whose step treats each parameter by itself. Its groups, states and schedule stay its own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.places = {
            id(parameter): (number, index)
            for number, group in enumerate(optimizer.param_groups)
            for index, parameter in enumerate(group["params"])
        }
        self.norms: dict[tuple[int, int], torch.Tensor] = {}
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(self._step)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def remove(self) -> None:
        """Leave the parameters alone from now on."""
        for hook in self.hooks:
            hook.remove()

    def take_norm(self) -> torch.Tensor:
        """Return the norm of all gradients of the last backward pass, a number on their device."""
        norms = [self.norms[place] for place in sorted(self.norms)]
        self.norms.clear()
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def _step(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        place = self.places[id(parameter)]
        self.norms[place] = _norm(gradient)
        del gradient
        groups = self.optimizer.param_groups
        self.optimizer.param_groups = [groups[place[0]] | {"params": [parameter]}]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
        parameter.grad = None


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    """Return the norm in at least float32; what has fewer bits is converted a block at a time."""
    if gradient.dtype in (torch.float32, torch.float64):
        return torch.linalg.vector_norm(gradient)
    size = BLOCK.get(gradient.device.type, BLOCK["cuda"])
    parts = [torch.linalg.vector_norm(part, dtype=torch.float32) for part in gradient.reshape(-1).split(size)]
    return torch.linalg.vector_norm(torch.stack(parts))


@contextmanager
def freed_gradients(model: torch.nn.Module) -> Iterator[None]:
    """Throw each gradient away when it is complete, as a backward pass on trial does."""

    def free(parameter: torch.Tensor) -> None:
        parameter.grad = None

    hooks = [one.register_post_accumulate_grad_hook(free) for one in model.parameters() if one.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
