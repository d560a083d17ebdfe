"""Step the optimizer in the backward pass: each parameter as soon as its gradient is complete, which is then freed.

So the gradients of all parameters never exist together. The step is the same: no later part of the backward pass reads
a weight whose gradient is complete.

    after the pass   g3 g2 g1 | step w1 w2 w3 | free all      in it   g3 step free | g2 step free | g1 step free
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.engine.optimizer.block_update import BLOCK


class InBackward:
    """Step an optimizer, parameter by parameter, from hooks.

    Args:
        optimizer: Its step must treat each parameter by itself. Groups, states and schedule stay as they are.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.indices = {
            id(parameter): (group_index, index)
            for group_index, group in enumerate(optimizer.param_groups)
            for index, parameter in enumerate(group["params"])
        }
        self.norms: dict[tuple[int, int], torch.Tensor] = {}
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(self._step)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()

    def take_norm(self) -> torch.Tensor:
        """Return the norm of all gradients of the last backward pass, () on their device."""
        norms = [self.norms[indices] for indices in sorted(self.norms)]
        self.norms.clear()
        # sqrt(sum of squared norms); sorted, so that the sum does not depend on the order of the hooks
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def _step(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        indices = self.indices[id(parameter)]
        self.norms[indices] = _norm(gradient)
        groups = self.optimizer.param_groups
        # a copy of the group with this parameter alone: the step updates nothing else
        self.optimizer.param_groups = [groups[indices[0]] | {"params": [parameter]}]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
        parameter.grad = None


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    """Return the norm in at least float32; gradients of fewer bits are converted a block at a time."""
    if gradient.dtype in (torch.float32, torch.float64):
        return torch.linalg.vector_norm(gradient)
    size = BLOCK.get(gradient.device.type, BLOCK["cuda"])
    parts = [torch.linalg.vector_norm(part, dtype=torch.float32) for part in gradient.reshape(-1).split(size)]
    return torch.linalg.vector_norm(torch.stack(parts))


@contextmanager
def freed_gradients(model: torch.nn.Module) -> Iterator[None]:
    """Free each gradient when it is complete."""

    def free(parameter: torch.Tensor) -> None:
        parameter.grad = None

    hooks = [weight.register_post_accumulate_grad_hook(free) for weight in model.parameters() if weight.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
