"""Plan a training: steps, micro-batches, levels of recompute, and when the optimizer steps.

    recipe, rows ──> sizes of a micro-batch, longest micro-batch of each size
    model, card  ──> memory plan (`memory_plan`), tried on a card (`memory_trial`); where no formula
                     covers them, a plan by traced steps (`traced_plan`)
    both         ──> one `BatchPlan`, which the loop is built from

Calls go one way: from here through `memory_plan` to `trainer.model.planning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

import numpy as np
import torch

from trainer.engine.batch import Batch
from trainer.engine.lora import is_sharded
from trainer.engine.optimizer.choice import is_rounded
from trainer.errors import Problem, RecipeError
from trainer.methods.context import Inputs, TrainingContext
from trainer.methods.hardware import card_of
from trainer.methods.memory_plan import plan_memory, recompute_all, recompute_without_plan
from trainer.methods.memory_trial import Trial
from trainer.methods.order import StepPlan, plan_steps
from trainer.methods.shapes import shape_of
from trainer.methods.traced_plan import plan_traced
from trainer.model.planning.gpus import Card
from trainer.model.planning.model_shape import NotPredictedError
from trainer.model.planning.planner import MemoryPlan, micro_batch_sizes
from trainer.model.planning.predictor import TOKENS_PER_MICRO_BATCH, MicroBatch
from trainer.model.planning.traced import TracedPlan
from trainer.recipe import Recipe
from trainer.recipe.schema import obstacles
from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore


@dataclass(frozen=True)
class BatchPlan:
    """Steps and micro-batches of a training, and what its backward pass computes again."""

    steps: StepPlan
    memory: MemoryPlan | TracedPlan | None
    """None where the memory of this model or recipe cannot be predicted."""
    recomputes_all: bool
    """transformers computes all layers again; False where a `MemoryPlan` sets levels."""
    in_backward: bool
    """The optimizer steps in the backward pass."""


def plan_batches(context: TrainingContext, num_processes: int) -> BatchPlan:
    """Plan steps and micro-batches, and set each layer's level of recompute.

    Raises:
        RecipeError: The batch sizes do not fit the number of processes.
    """
    recipe, inputs, model = context.job.recipe, context.inputs, context.model
    sizes, share = micro_batch_sizes(recipe.train, num_processes)
    if inputs.go_alone:
        sizes = sizes[:1]
    card = card_of(model)
    batches = {size: largest_batch(inputs.train, inputs.plan, size)[1] for size in sizes}
    memory: MemoryPlan | TracedPlan | None
    try:
        memory = plan_memory(
            model,
            context.engine,
            recipe,
            batches,
            share=share,
            card=card,
            run=Trial(model, context.engine, partial(_longest_batch, context), context.types.autocast).run,
            say=context.say,
        )
    except NotPredictedError:
        memory = _traced_plan(context, batches, card, share=share, processes=num_processes)
    size = memory.micro_batch_size if memory else _usual_size(recipe, inputs, sizes)
    steps = plan_steps(recipe.train, num_items=len(inputs.plan), share=share, micro_batch_size=size)
    match memory:
        case MemoryPlan():
            recomputes_all = False
        case TracedPlan():
            recomputes_all = recompute_all(model, recomputes=memory.recomputes)
        case None:
            recomputes_all = recompute_without_plan(model, recipe, context.say)
        case _:
            assert_never(memory)
    return BatchPlan(steps, memory, recomputes_all, _steps_in_backward(context, steps))


def _traced_plan(
    context: TrainingContext, batches: Mapping[int, MicroBatch], card: Card, *, share: int, processes: int
) -> TracedPlan | None:
    is_flat = context.engine.layout == "flat"
    longest = _longest_item(context.job.recipe, context.inputs)
    return plan_traced(
        context.model,
        context.job.recipe,
        {size: batch.tokens if is_flat else size * longest for size, batch in batches.items()},
        is_flat=is_flat,
        share=share,
        processes=processes,
        card=card,
        say=context.say,
    )


def largest_batch(store: TokenStore, plan: PackPlan, micro_batch_size: int) -> tuple[list[int], MicroBatch]:
    """Return the items of the longest micro-batch that chance may bring, and its numbers of tokens.

    Example:
        Three rows, one item each; a micro-batch of two holds at most the rows of 5 and of 4 tokens.

        >>> from trainer.tokens.pack import one_by_one
        >>> lengths = np.array([3, 5, 4])
        >>> ids = np.arange(12, dtype=np.int32)
        >>> offsets = np.concatenate([[0], np.cumsum(lengths)])
        >>> store = TokenStore(ids, np.ones(12, dtype=np.uint8), offsets, np.arange(3), segments=1)
        >>> largest_batch(store, one_by_one(range(3)), 2)
        ([1, 2], MicroBatch(tokens=9, trained=9, shared=0))
    """
    rows, starts = plan.rows, plan.offsets[:-1]
    # (items,) each: sums over the rows of an item
    counts = [
        np.add.reduceat(of_row[rows], starts)
        for of_row in (store.lengths(), store.num_trained(), store.prompt_lengths())
    ]
    copies = -(-micro_batch_size // len(starts))  # of fewer items than that, a step takes each several times
    items = np.argsort(counts[0], kind="stable")[::-1].repeat(copies)[:micro_batch_size]
    return items.tolist(), MicroBatch(*(int(count[items].sum()) for count in counts))


def _longest_batch(context: TrainingContext, size: int) -> Batch:
    """Build the longest micro-batch of a size, on the host."""
    items, _ = largest_batch(context.inputs.train, context.inputs.plan, size)
    dataset, collate = shape_of(context.job.recipe.method).train_data(context)
    return collate([dataset[item] for item in items])


def _usual_size(recipe: Recipe, inputs: Inputs, sizes: Sequence[int]) -> int:
    """Return the largest size within the usual number of tokens, for models whose memory is not predicted."""
    longest = _longest_item(recipe, inputs)
    budget = TOKENS_PER_MICRO_BATCH["cuda" if torch.cuda.is_available() else "cpu"]
    return max([size for size in sizes if size * longest <= budget], default=sizes[0])


def _longest_item(recipe: Recipe, inputs: Inputs) -> int:
    """Return the tokens of the longest item; packs are full to `pack.max_length`, or nearly."""
    return recipe.pack.max_length if inputs.is_packed else int(inputs.train.lengths().max())


def _steps_in_backward(context: TrainingContext, steps: StepPlan) -> bool:
    """Decide on `train.optimizer_in_backward`.

    Raises:
        RecipeError: The recipe sets it to true, and the processes, micro-batches or model do not allow it.
    """
    train = context.job.recipe.train
    reasons = obstacles(context.job.recipe, processes=steps.num_processes, accumulation=steps.accumulation)
    if is_sharded():
        reasons.append("weights are spread over processes: launch.strategy=auto")
    if context.inputs.go_alone and train.micro_batch_size == "auto" and steps.micro_batch_size > 1:
        reasons.append("items of this model go one by one: train.global_batch_size=1")
    if train.optimizer_in_backward is True and reasons:
        problem = Problem("recipe", None, "train.optimizer_in_backward", "; ".join(reasons))
        raise RecipeError([problem], hint="--set train.optimizer_in_backward=auto")
    is_on = train.optimizer_in_backward is not False and not reasons
    if is_on:
        context.say("train: each weight steps in the backward pass, its gradient is freed")
    if is_rounded(context.model):
        how = "to nearest by what spreads them over processes" if is_sharded() else "stochastically"
        context.say(f"train: bfloat16 weights are rounded {how}")
    return is_on
