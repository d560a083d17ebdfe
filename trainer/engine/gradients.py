"""Find trained weights that no gradient reaches, by one forward and backward pass as training runs them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn

from trainer.engine.batch import moved, of_rows
from trainer.engine.prepare import Engine
from trainer.tokens.arrays import Ints

PROBE_TOKENS = 64
EXPERTS = "experts."
"""In the name of a weight of one expert: it has no gradient where the router chose others, and gets one later."""


def unreached(model: nn.Module, engine: Engine, rows: Sequence[Ints], *, autocast: torch.dtype | None) -> list[str]:
    """Return the names of the trained weights that the loss of a few rows does not depend on.

    The pass runs in training mode under the training's own autocast, so that it fails here where it would fail in the
    first step. Gradients are dropped as soon as they are whole: the pass takes no memory for them. Random states, and
    the model's mode, are as before.

    Args:
        model: The model with its adapter, on the device where it trains, prepared by the engine.
        engine: How the model is given its batches.
        rows: Token ids of some rows.
        autocast: Type of the matrix products; None where it is that of the weights.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    device = next(model.parameters()).device
    reached: set[str] = set()
    was_training = model.training
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.callback(model.train, was_training)
        for name, weight in trained.items():
            stack.callback(_record(name, weight, reached).remove)
        if autocast is not None:
            stack.enter_context(torch.autocast(device.type, dtype=autocast))
        model.train()
        _loss(model, engine, rows, device).backward()
    return [name for name in trained if name not in reached and EXPERTS not in name]


def _record(name: str, weight: nn.Parameter, reached: set[str]) -> torch.utils.hooks.RemovableHandle:
    def drop(parameter: torch.Tensor) -> None:
        reached.add(name)
        parameter.grad = None

    return weight.register_post_accumulate_grad_hook(drop)


def _loss(model: nn.Module, engine: Engine, rows: Sequence[Ints], device: torch.device) -> torch.Tensor:
    """Return the mean negative log-probability of the rows, cut to `PROBE_TOKENS`, plus a router's loss."""
    cut = [row[:PROBE_TOKENS].astype(np.int64) for row in rows if len(row) > 1]
    batch = of_rows([[(ids, np.ones(len(ids), dtype=np.uint8)) for ids in cut]], engine.layout, 0)
    log_probs, router_loss = engine.score(model, moved(batch, device))
    return -log_probs.mean() if router_loss is None else -log_probs.mean() + router_loss
