"""Trying a plan of the memory on the longest micro-batch before the first step, without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from trainer.engine import recompute
from trainer.engine.batch import Batch
from trainer.engine.optimizer.backward import freed_gradients
from trainer.engine.prepare import Engine
from trainer.methods.collate import moved
from trainer.model.planning.planner import MemoryPlan


class Trial:
    """Runs plans; weights, gradients, random numbers and modes are afterwards what they were before."""

    def __init__(
        self, model: Any, engine: Engine, longest: Callable[[int], Batch], autocast: torch.dtype | None
    ) -> None:
        """Take what a training takes.

        Args:
            model: On the device where it trains, with gradients None.
            engine: Of the model.
            longest: Gives the longest micro-batch of a size, on the host.
            autocast: Type of the matrix products where it differs from the weights.
        """
        self.model = model
        self.engine = engine
        self.longest = longest
        self.autocast = autocast
        self.device = next(model.parameters()).device

    def run(self, plan: MemoryPlan) -> int | None:
        """Return the bytes at the peak of a forward and backward pass, the most of all processes; None: out of memory.

        All processes must call it for the same plan.
        """
        recompute.apply(self.model, plan.levels, is_lean=plan.is_lean)
        was_training = self.model.training
        self.model.train()
        cards = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cards, device_type="cuda"):
            measured = self._peak(plan)
        self.model.train(was_training)
        most = -least([-float("inf") if measured is None else -float(measured)], self.device)[0]
        return None if most == float("inf") else int(most)

    def _peak(self, plan: MemoryPlan) -> int | None:
        try:
            start_measuring(self.device)
            states = torch.empty(plan.memory.optimizer, dtype=torch.uint8, device=self.device)  # not there yet
            if plan.accumulation > 1:
                for weight in self.model.parameters():
                    weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
            with freed_gradients(self.model) if plan.in_backward else nullcontext():
                self._pass(plan.micro_batch_size)
            del states
            return measured(self.device)
        except torch.OutOfMemoryError:
            return None
        finally:
            self.model.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _pass(self, size: int) -> None:
        batch = self.longest(size)
        batch = moved({name: batch[name] for name in ("inputs", "targets")}, self.device)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            found, _ = self.engine.score(self.model, batch)
            loss = -found.mean()
        loss.backward()


def start_measuring(device: torch.device) -> None:
    """Forget the highest use of memory so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def measured(device: torch.device) -> int:
    """Return the most bytes that all tensors have taken since."""
    return torch.cuda.max_memory_allocated(device)


def least(values: list[float], device: torch.device) -> list[float]:
    """Return the smallest of each value over all processes, so that all of them decide alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MIN)
    found: list[float] = tensor.tolist()
    return found
