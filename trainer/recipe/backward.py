"""Whether the optimizer can step in the backward pass, where no gradient waits for another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.recipe.model import NoAdapter

if TYPE_CHECKING:
    from trainer.recipe.schema import Recipe


def obstacles(recipe: Recipe, *, processes: int | None, accumulation: int | None) -> list[str]:
    """Return what stands in the way, each with the setting that removes it.

    Args:
        recipe: What is asked for.
        processes: Of the training; None: not known yet.
        accumulation: Micro-batches of a step in a process; None: not known yet.
    """
    return list(_obstacles(recipe, processes, accumulation))


def _obstacles(recipe: Recipe, processes: int | None, accumulation: int | None) -> Iterator[str]:
    train, launch = recipe.train, recipe.launch
    if not isinstance(recipe.adapter, NoAdapter):
        yield f"adapter.kind {recipe.adapter.kind} has hardly any gradients to free: adapter.kind=none"
    if train.max_grad_norm:
        yield f"max_grad_norm {train.max_grad_norm:g} needs all gradients at once: train.max_grad_norm=0"
    if recipe.model.dtype == "float16":
        yield "float16 gradients are scaled and looked at together: model.dtype=bfloat16"
    if launch.strategy not in ("auto", "ddp"):
        yield f"launch.strategy {launch.strategy} spreads weights over processes: launch.strategy=auto"
    if (processes or 1) * launch.num_nodes > 1:
        yield "gradients of several processes are averaged first: launch.num_processes=1 and launch.num_nodes=1"
    elif (accumulation or 1) > 1:
        yield f"{accumulation} micro-batches a step add up: train.micro_batch_size={train.global_batch_size}"


def steps_in_backward(recipe: Recipe, *, processes: int, accumulation: int) -> bool:
    """Settle `train.optimizer_in_backward`: auto where nothing stands in the way."""
    asked = recipe.train.optimizer_in_backward
    return not obstacles(recipe, processes=processes, accumulation=accumulation) if asked == "auto" else asked


def foreseen(recipe: Recipe) -> bool:
    """Settle it from the recipe alone: auto only where the recipe itself names one process and one micro-batch."""
    processes, accumulation = stated(recipe)
    if recipe.train.optimizer_in_backward == "auto" and (processes is None or accumulation is None):
        return False
    return steps_in_backward(recipe, processes=processes or 1, accumulation=accumulation or 1)


def stated(recipe: Recipe) -> tuple[int | None, int | None]:
    """Return processes and micro-batches a step and process as far as the recipe names them."""
    named, micro = recipe.launch.num_processes, recipe.train.micro_batch_size
    processes = None if named == "auto" else named
    if micro == "auto":
        return processes, None
    return processes, recipe.train.global_batch_size // (micro * (processes or 1) * recipe.launch.num_nodes)
