"""Step AdamW and SGD on bfloat16 weights: states and arithmetic in float32, the result rounded stochastically.

Rounded to nearest, an update below 2^-9 of a weight is lost in every step; rounded stochastically, the mean is exact.
Source: Zamirai et al. 2020, https://arxiv.org/abs/2010.06192.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch.optim.adamw import adamw

from trainer.engine.optimizer.block_update import Rule, update

Parameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]]
"""Parameters or groups, as torch's optimizers take them."""
Group = dict[str, Any]
"""One of an optimizer's `param_groups`: parameters and settings."""


class Rounded(torch.optim.Optimizer):
    """Base class of both. Float32 weights among the bfloat16 ones are updated exactly.

    Args:
        params: Parameters or groups.
        seed: Of the noise, with the number of the step and of the parameter; equal on every process.
        defaults: Settings of the rule.
    """

    def __init__(self, params: Parameters, *, seed: int, **defaults: object) -> None:
        super().__init__(params, defaults)
        self.seed = seed
        self.indices = {id(parameter): index for index, parameter in enumerate(self._parameters())}

    def rule(self, parameter: torch.Tensor, group: Group) -> Rule:
        """Return the update of a parameter in this step; create its state before the first one."""
        raise NotImplementedError

    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    with torch.no_grad():
                        self._update(group, parameter)

    def _update(self, group: Group, parameter: torch.Tensor) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        stream = (self.seed, state["step"], self.indices[id(parameter)])
        update(parameter, parameter.grad, self.rule(parameter, group), stream)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load states as they are: torch would round them to the type of the weights."""
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for number, parameter in zip(numbers, self._parameters(), strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = {
                    name: value.to(parameter.device, copy=True) if isinstance(value, torch.Tensor) else value
                    for name, value in state_dict["state"][number].items()
                }

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


class RoundedAdamW(Rounded):
    """AdamW with float32 states; each block is one call of torch's fused AdamW."""

    def __init__(
        self,
        params: Parameters,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, seed=seed)

    def rule(self, parameter: torch.Tensor, group: Group) -> Rule:
        """Return torch's AdamW on a block."""
        state = self.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            if name not in state:
                state[name] = torch.zeros_like(parameter, dtype=torch.float32)
        means, squares = state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1)

        def change(weights: torch.Tensor, gradient: torch.Tensor, part: slice) -> None:
            # made on the device: the host would wait while a number of its own is copied
            before = torch.full((), state["step"] - 1.0, dtype=torch.float32, device=weights.device)
            adamw(
                [weights],
                [gradient],
                [means[part]],
                [squares[part]],
                [],
                [before],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

        return change


class RoundedSGD(Rounded):
    """Plain gradient descent, with torch's (coupled) weight decay."""

    def __init__(self, params: Parameters, *, lr: float, weight_decay: float = 0.0, seed: int = 0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, seed=seed)

    def rule(self, parameter: torch.Tensor, group: Group) -> Rule:
        """Return the descent on a block."""

        def change(weights: torch.Tensor, gradient: torch.Tensor, part: slice) -> None:
            if group["weight_decay"]:
                gradient = gradient.add(weights, alpha=group["weight_decay"])  # g + d w
            weights.add_(gradient, alpha=-group["lr"])  # w - lr g

        return change
