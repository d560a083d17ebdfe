"""How a run is cut into steps and micro-batches, what layers compute again, and when the optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from trainer.engine.batch import Batch
from trainer.engine.lora import is_sharded
from trainer.engine.optimizer.choice import is_rounded
from trainer.errors import Problem, RecipeError
from trainer.methods import memory_plan
from trainer.methods.context import Inputs, TrainingContext
from trainer.methods.memory_plan import Chosen
from trainer.methods.memory_trial import Trial
from trainer.methods.order import StepPlan, share_of, solve_plan
from trainer.methods.shapes import shape_of
from trainer.model.planning.planner import divisors
from trainer.model.planning.predictor import TOKENS_PER_MICRO_BATCH
from trainer.recipe import Recipe
from trainer.recipe.schema import obstacles


@dataclass(frozen=True)
class BatchPlan:
    """How a run is cut into steps and micro-batches, and what is computed again."""

    plan: StepPlan
    chosen: Chosen | None
    """Where memory is predicted."""
    recomputes: bool
    """transformers is to compute all layers again."""
    in_backward: bool
    """The optimizer steps in the backward pass."""


def plan_batches(parts: TrainingContext, world_size: int) -> BatchPlan:
    """Cut the run into steps and micro-batches, and choose what is computed again.

    Raises:
        RecipeError: The batch sizes do not fit the number of processes.
    """
    recipe, inputs = parts.job.recipe, parts.inputs
    try:
        share = share_of(recipe.train, world_size)
        sizes = divisors(recipe.train, share)
    except ValueError as error:
        message = f"{error} (global_batch_size {recipe.train.global_batch_size} over {world_size} processes)"
        problem = Problem("recipe", None, "train.global_batch_size", message)
        raise RecipeError([problem], hint="choose a multiple, or another launch.num_processes") from error
    if inputs.go_alone:
        sizes = sizes[:1]
    batches = {size: memory_plan.largest_batch(inputs.train, inputs.plan, size)[1] for size in sizes}
    trial = Trial(parts.model, parts.engine, partial(_longest, parts), parts.types.autocast)
    chosen = memory_plan.plan_memory(parts.model, parts.engine, recipe, batches, share, trial, parts.say)
    size = chosen.forecast.micro_batch_size if chosen else _usual(recipe, inputs, sizes)
    plan = solve_plan(recipe.train, num_items=len(inputs.plan), world_size=world_size, micro_batch_size=size)
    recomputes = chosen is None and memory_plan.without_plan(parts.model, recipe, parts.say)
    return BatchPlan(plan, chosen, recomputes, _steps_in_backward(plan, parts))


def _steps_in_backward(plan: StepPlan, parts: TrainingContext) -> bool:
    """Settle `train.optimizer_in_backward`.

    Raises:
        RecipeError: It is asked for, and the number of processes or of micro-batches does not allow it.
    """
    recipe = parts.job.recipe
    processes = plan.global_batch_size // (plan.micro_batch_size * plan.accumulation)
    found = obstacles(recipe, processes=processes, accumulation=plan.accumulation)
    if is_sharded():
        found.append("weights are spread over processes: launch.strategy=auto")
    if parts.inputs.go_alone and recipe.train.micro_batch_size == "auto" and plan.micro_batch_size > 1:
        found.append("items of this model go one by one: train.global_batch_size=1")
    asked = recipe.train.optimizer_in_backward
    if asked is True and found:
        problem = Problem("recipe", None, "train.optimizer_in_backward", "; ".join(found))
        raise RecipeError([problem], hint="--set train.optimizer_in_backward=auto")
    is_on = asked is not False and not found
    if is_on:
        parts.say("train: each weight steps in the backward pass, its gradient is freed")
    if is_rounded(parts.model):
        how = "to nearest by what spreads them over processes" if is_sharded() else "stochastically"
        parts.say(f"train: bfloat16 weights are rounded {how}")
    return is_on


def _usual(recipe: Recipe, inputs: Inputs, sizes: Sequence[int]) -> int:
    """Return the largest size with the usual number of tokens, where memory is not predicted."""
    longest = recipe.pack.max_length if inputs.is_packed else int(inputs.train.lengths().max())
    budget = TOKENS_PER_MICRO_BATCH["cuda" if torch.cuda.is_available() else "cpu"]
    return max([size for size in sizes if size * longest <= budget], default=sizes[0])


def _longest(parts: TrainingContext, size: int) -> Batch:
    """Return the longest micro-batch that chance may bring."""
    items, _ = memory_plan.largest_batch(parts.inputs.train, parts.inputs.plan, size)
    dataset, collate = shape_of(parts.job.recipe.method).train_data(parts)
    return collate([dataset[item] for item in items])
