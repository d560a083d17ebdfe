"""Turn running out of memory into an error that names settings that fit."""

from __future__ import annotations

import torch

from trainer.errors import HardwareError
from trainer.methods.batch_plan import BatchPlan
from trainer.methods.memory_plan import outline_of
from trainer.model.planning.advice import after_running_out
from trainer.model.planning.model_shape import NotPredictedError
from trainer.model.planning.planner import MemoryPlan
from trainer.recipe import Recipe


def out_of_memory(
    model: torch.nn.Module, recipe: Recipe, plan: BatchPlan, error: torch.OutOfMemoryError
) -> HardwareError:
    """Return the error for a training that has run out of memory; its hint needs clearly less."""
    size = plan.steps.micro_batch_size
    failed = plan.memory if isinstance(plan.memory, MemoryPlan) else None
    # only where no formula predicts: half the micro-batch, with twice as many of them a step
    smaller = (
        f"--set train.micro_batch_size={size // 2}"
        if size > 1
        else "--set train.gradient_checkpointing=true, --set adapter.kind=qlora, or a smaller pack.max_length"
    )
    return HardwareError(
        f"out of memory with micro_batch_size {size} and max_length {recipe.pack.max_length}: "
        f"{str(error).splitlines()[0]}",
        hint=settings_that_fit(model, recipe, failed) or smaller,
    )


def settings_that_fit(model: torch.nn.Module, recipe: Recipe, failed: MemoryPlan | None) -> str | None:
    """Return settings that need clearly less memory than a plan that has failed; None where none are known."""
    if failed is None:
        return None
    try:
        return after_running_out(recipe, outline_of(model), failed)
    except NotPredictedError:
        return None
