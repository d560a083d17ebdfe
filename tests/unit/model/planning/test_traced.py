"""Plans by traced steps: the faster level where it fits, smaller micro-batches, and what fits nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests import tiny
from trainer.model.planning import gpus
from trainer.model.planning.planner import GIB
from trainer.model.planning.traced import TracedPlan, WeightNumbers, choose, traced_levels
from trainer.recipe import Recipe
from trainer.shapes.blueprint import TracedMemory

KEEPS = TracedMemory(weights=GIB, widest=0, tokens=1024, fixed=0, per_item=GIB, recomputes=False)
RECOMPUTES = TracedMemory(weights=GIB, widest=0, tokens=1024, fixed=0, per_item=GIB // 8, recomputes=True)
TOKENS = {size: size * 1024 for size in (1, 2, 4, 8, 16, 32)}


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(tiny.recipe_values("model", "rows.jsonl", **sections))


def plan(gib: float, **train: Any) -> TracedPlan:
    card = replace(gpus.CARDS["A100-40GB"], memory=int(gib * GIB))
    traces = [KEEPS, RECOMPUTES]
    return choose(
        recipe(train={"gradient_checkpointing": "auto", **train}),
        traces,
        WeightNumbers(0, 0),
        TOKENS,
        share=32,
        processes=1,
        card=card,
    )


def test_activations_are_kept_where_they_fit() -> None:
    result = plan(80)
    assert (result.micro_batch_size, result.recomputes, result.fits) == (8, False, True)  # 8,192 tokens are usual


def test_a_smaller_micro_batch_comes_before_recompute_and_recompute_before_a_tiny_one() -> None:
    assert (plan(8).micro_batch_size, plan(8).recomputes) == (4, False)
    assert (plan(3.6).micro_batch_size, plan(3.6).recomputes) == (8, True)


def test_what_fits_nowhere_is_the_plan_that_needs_the_least() -> None:
    result = plan(1)
    assert not result.fits and result.recomputes and result.micro_batch_size == 1
    assert "does not fit" in result.line()


def test_levels_are_those_that_the_recipe_allows() -> None:
    assert traced_levels(recipe(train={"gradient_checkpointing": "auto"}), is_cuda=True) == (False, True)
    assert traced_levels(recipe(train={"gradient_checkpointing": "auto"}), is_cuda=False) == (False,)
    assert traced_levels(recipe(train={"gradient_checkpointing": True}), is_cuda=False) == (True,)
    assert traced_levels(recipe(train={"gradient_checkpointing": "offload"}), is_cuda=True) == ()
