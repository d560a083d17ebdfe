"""Predict the memory of a recipe from a traced step, for models and settings that the formulas do not cover.

    peak = weights + optimizer + gradients of earlier micro-batches + fixed + tokens * bytes a token + reserve

The recompute level is the same for all layers, as transformers sets it, and the micro-batch has the usual size.
"""

from __future__ import annotations

from trainer.model.planning.activations import WHOLE, Kinds
from trainer.model.planning.gpus import Card
from trainer.model.planning.planner import GIB, micro_batch_sizes, requested_level
from trainer.model.planning.predictor import RESERVE_CPU, RESERVE_CUDA, RESERVE_SHARE, STATES, TOKENS_PER_MICRO_BATCH
from trainer.model.planning.quantised_sizes import eight_bit_states, four_bit_bytes
from trainer.recipe import Recipe
from trainer.recipe.method import row_facts
from trainer.recipe.model import four_bit_of
from trainer.shapes.blueprint import Blueprint, TracedMemory


def recomputes_all(recipe: Recipe, *, is_cuda: bool) -> bool | None:
    """Tell whether transformers computes all layers again; None where the recipe sets a level that is not traced.

    Example:
        Without a plan, a card computes all layers again and a CPU none.
    """
    level = requested_level(recipe.train, is_cuda=is_cuda)
    if level in ("elementwise", "offload"):
        return None
    return level is None or level in WHOLE


def predicted_step(traced: TracedMemory, tokens: int) -> int:
    """Return the bytes that the forward and backward pass of a micro-batch of some tokens holds.

    Example:
        >>> traced = TracedMemory(weights=0, widest=0, tokens=128, fixed=100, per_item=1280, recomputes=False)
        >>> predicted_step(traced, 256)
        2660
    """
    return traced["fixed"] + traced["per_item"] * tokens // traced["tokens"]


def memory_line(recipe: Recipe, blueprint: Blueprint, traced: TracedMemory, card: Card) -> str:
    """Return the line of `check` about memory on a card."""
    processes = 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes
    sizes, share = micro_batch_sizes(recipe.train, processes)
    item = recipe.pack.max_length * row_facts(recipe.method).sequences
    usual = TOKENS_PER_MICRO_BATCH["cuda" if card.is_cuda else "cpu"]
    size = max([size for size in sizes if size * item <= usual], default=sizes[0])
    parts = _parts(recipe, blueprint, traced, tokens=size * item, adds_up=share > size or processes > 1, card=card)
    held = sum(parts.values())
    parts["reserve"] = (RESERVE_CUDA if card.is_cuda else RESERVE_CPU) + int(RESERVE_SHARE * held)
    total = sum(parts.values())
    listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    verdict = "fits" if total <= card.memory else "does not fit: a smaller pack.max_length, or adapter.kind=qlora"
    return (
        f"memory: {card.name} has {card.memory / GIB:.1f} GiB, predicted peak {total / GIB:.2f} GiB at {size * item:,} "
        f"tokens a micro-batch, recompute {'full' if traced['recomputes'] else 'none'} ({listed}): {verdict}"
    )


def _parts(
    recipe: Recipe, blueprint: Blueprint, traced: TracedMemory, *, tokens: int, adds_up: bool, card: Card
) -> dict[str, int]:
    """Return bytes by part, all but the reserve."""
    kinds = Kinds.of(recipe, is_cuda=card.is_cuda)
    weights, step, trained = traced["weights"], predicted_step(traced, tokens), blueprint["trained"]
    if settings := four_bit_of(recipe.adapter):
        quantised = sum(count["four_bit"] for count in blueprint["counts"].values())
        weights += four_bit_bytes(quantised, double=settings.bnb_4bit_use_double_quant) - quantised * kinds.weights
        step += traced["widest"] * kinds.product  # dequantised for its product
    states = STATES.get(recipe.train.optim)
    return {
        "weights": weights,
        "optimizer": eight_bit_states(trained) if states is None else states * trained,
        "gradients": trained * kinds.adapter if adds_up else 0,
        "step": step,
    }
