"""Try a memory plan on the longest micro-batch before the first step, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from trainer.engine import recompute
from trainer.engine.batch import Batch, moved
from trainer.engine.optimizer.backward import freed_gradients
from trainer.engine.prepare import Engine
from trainer.methods.hardware import lowest
from trainer.model.planning.planner import MemoryPlan


class Trial:
    """Run plans; weights, gradients, random numbers and modes are afterwards as they were before."""

    def __init__(
        self,
        model: torch.nn.Module,
        engine: Engine,
        longest_batch: Callable[[int], Batch],
        autocast: torch.dtype | None,
    ) -> None:
        """Keep what a forward and backward pass needs.

        Args:
            model: On the device where it trains, with gradients None.
            engine: Of the model.
            longest_batch: Builds the longest micro-batch of a size, on the host.
            autocast: Type of the matrix products where it differs from the weights.
        """
        self.model = model
        self.engine = engine
        self.longest_batch = longest_batch
        self.autocast = autocast
        self.device = next(model.parameters()).device

    def run(self, plan: MemoryPlan) -> int | None:
        """Return the highest peak of all processes in bytes, over a forward and backward pass; None: out of memory.

        All processes must call it for the same plan.
        """
        recompute.apply(self.model, plan.levels, is_lean=plan.is_lean)
        was_training = self.model.training
        self.model.train()
        cards = [self.device] if self.device.type == "cuda" else []
        # dropout draws numbers: the training must begin with those it would have without a trial
        with torch.random.fork_rng(cards, device_type="cuda"):
            peak = self._peak(plan)
        self.model.train(was_training)
        # max(x) = -min(-x); one process out of memory makes it infinite for all
        highest = -lowest([-float("inf") if peak is None else -float(peak)], self.device)[0]
        return None if highest == float("inf") else int(highest)

    def _peak(self, plan: MemoryPlan) -> int | None:
        try:
            reset_peak(self.device)
            # stands for the optimizer's states, which do not exist yet
            states = torch.empty(plan.memory.optimizer, dtype=torch.uint8, device=self.device)
            # from the second micro-batch on, gradients exist during the forward pass
            if plan.accumulation > 1:
                for weight in self.model.parameters():
                    weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
            with freed_gradients(self.model) if plan.in_backward else nullcontext():
                self._pass(plan.micro_batch_size)
            del states
            return peak_bytes(self.device)
        except torch.OutOfMemoryError:
            return None
        finally:
            self.model.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _pass(self, size: int) -> None:
        batch = self.longest_batch(size)
        batch = moved(Batch(inputs=batch["inputs"], targets=batch["targets"]), self.device)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            log_probs, _ = self.engine.score(self.model, batch)
            loss = -log_probs.mean()  # any loss of the (N,) log-probabilities takes the same memory
        loss.backward()


def reset_peak(device: torch.device) -> None:
    """Forget the highest use of a card's memory so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that all tensors of a card have taken since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device)
