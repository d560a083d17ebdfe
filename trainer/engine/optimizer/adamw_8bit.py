"""Step bitsandbytes' AdamW, with 8-bit or paged states, bfloat16 weights rounded stochastically, and exact resumes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.optim import AdamW
from bitsandbytes.utils import sync_gpu

from trainer.engine.optimizer.block_update import update
from trainer.engine.optimizer.rounded import Group, Parameters

STATE_BLOCK = 256
"""8-bit states that share a scale."""
LARGE_STATES = ("state1", "state2")
"""States that are paged."""


class BlockwiseAdamW(AdamW):
    """AdamW with 8-bit or paged float32 states.

    Arithmetic and state format are bitsandbytes'. The differences: `in_float32` replaces bitsandbytes' global registry,
    which outlives a training; the host does not wait for the card after each tensor; loaded states are paged again.

    Args:
        params: Parameters or groups.
        seed: Of stochastic rounding.
        in_float32: Parameters that keep float32 states, as transformers does for embeddings.
        settings: Of `bitsandbytes.optim.AdamW`.
    """

    def __init__(
        self, params: Parameters, *, seed: int, in_float32: Collection[torch.Tensor] = (), **settings: object
    ) -> None:
        super().__init__(params, **settings)
        self.seed = seed
        self.in_float32 = {id(parameter) for parameter in in_float32}
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        self.indices = {id(parameter): index for index, parameter in enumerate(parameters)}

    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient."""
        assert closure is None
        last = None
        for number, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    with torch.no_grad():
                        self._update(group, parameter, number, index)
                    last = parameter
        if self.is_paged and last is not None:
            sync_gpu(last)  # from here on the CPU may read paged memory

    def _update(self, group: Group, parameter: torch.Tensor, number: int, index: int) -> None:
        if not self.state[parameter]:
            self.init_state(group, parameter, number, index)
        self.prefetch_state(parameter)
        self.update_step(group, parameter, number, index)

    def get_config(self, gindex: int, pindex: int, group: Group) -> Group:
        """Return the settings of one parameter."""
        names = ("optim_bits", "min_8bit_size", "max_unorm", "skip_zeros")
        config = {name: value for name, value in group.items() if name != "params"}
        config |= {name: getattr(self.args, name) for name in names}
        if id(group["params"][pindex]) in self.in_float32:
            config["optim_bits"] = 32
        return config

    def update_step(self, group: Group, p: torch.Tensor, gindex: int, pindex: int) -> None:
        """Update one parameter, without recording gradients."""
        if p.dtype != torch.bfloat16:
            super().update_step(group, p, gindex, pindex)
            return
        state = self.state[p]
        state["step"] += 1

        def rule(weights: torch.Tensor, gradient: torch.Tensor, part: slice) -> None:
            change = _in_8bit if state["state1"].dtype == torch.uint8 else _in_float32
            change(weights, gradient, state, part, group)

        assert p.grad is not None
        update(p, p.grad, rule, (self.seed, state["step"], self.indices[id(p)]))

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        """Load states to where they were: the card, or paged memory."""
        super().load_state_dict(state_dict, move_to_device=False)
        for parameter, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[name] = self._placed(parameter, name, value)

    def _placed(self, parameter: torch.Tensor, name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in LARGE_STATES:
            return value.to(parameter.device)
        buffer: torch.Tensor = self.get_state_buffer(parameter, dtype=value.dtype)
        buffer.copy_(value)
        return buffer


def _part(states: torch.Tensor, part: slice) -> torch.Tensor:
    """Return a part of a flat state, marked as paged where the state is."""
    view = states.view(-1)[part]
    if getattr(states, "is_paged", False):
        view.is_paged = True
    return view


def _in_8bit(weights: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], part: slice, group: Group) -> None:
    # blocks of the update are multiples of STATE_BLOCK, so no two parts share a scale
    scales = slice(part.start // STATE_BLOCK, -(-part.stop // STATE_BLOCK))
    functional.optimizer_update_8bit_blockwise(
        "adam",
        gradient,
        weights,
        _part(state["state1"], part),
        _part(state["state2"], part),
        *group["betas"],
        beta3=0.0,
        alpha=0.0,
        eps=group["eps"],
        step=state["step"],
        lr=group["lr"],
        qmap1=state["qmap1"],
        qmap2=state["qmap2"],
        absmax1=state["absmax1"][scales],
        absmax2=state["absmax2"][scales],
        weight_decay=group["weight_decay"],
    )


def _in_float32(
    weights: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], part: slice, group: Group
) -> None:
    functional.optimizer_update_32bit(
        "adam",
        gradient,
        weights,
        _part(state["state1"], part),
        group["betas"][0],
        group["eps"],
        state["step"],
        group["lr"],
        state2=_part(state["state2"], part),
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
    )
