"""Plan a training from traced steps, for models and settings that the formulas do not cover.

    peak = weights + optimizer + gradients of earlier micro-batches + fixed + tokens * bytes a token + reserve

The recompute level is the same for all layers, as transformers sets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.model.planning.activations import WHOLE, Kinds
from trainer.model.planning.gpus import Card
from trainer.model.planning.planner import GIB, PlanNumbers, requested_level
from trainer.model.planning.predictor import RESERVE_CPU, RESERVE_CUDA, RESERVE_SHARE, STATES, TOKENS_PER_MICRO_BATCH
from trainer.model.planning.quantised_sizes import eight_bit_states, four_bit_bytes
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter, four_bit_of
from trainer.shapes.blueprint import TracedMemory

SIZES_TO_KEEP_ALL = 3
"""Sizes of a micro-batch, from the usual one down, that are tried without recompute: a smaller one costs more than the
third of a step that recompute costs."""


@dataclass(frozen=True)
class WeightNumbers:
    """Numbers of weights that decide the memory beside the traced step."""

    trained: int
    four_bit: int
    """Held in 4 bits."""


@dataclass(frozen=True)
class TracedPlan:
    """A micro-batch and a level of recompute, with the bytes that they need."""

    micro_batch_size: int
    tokens: int
    """Of the largest micro-batch, padding included."""
    recomputes: bool
    """All layers are computed again in the backward pass."""
    parts: Mapping[str, int]
    """Name -> bytes."""
    card: Card

    @property
    def total(self) -> int:
        """Return the bytes at the peak."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Tell whether the card has enough memory."""
        return self.total <= self.card.memory

    @property
    def level(self) -> str:
        """Return the level of recompute for messages."""
        return "full" if self.recomputes else "none"

    def numbers(self) -> PlanNumbers:
        """Return the numbers for `stage.json`."""
        return {
            "micro_batch_tokens": self.tokens,
            "recompute": self.level,
            "predicted_gib": round(self.total / GIB, 3),
            "predicted_parts_gib": {name: round(size / GIB, 3) for name, size in self.parts.items()},
        }

    def line(self) -> str:
        """Return the line of `check`."""
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.parts.items())
        verdict = "fits" if self.fits else "does not fit: a smaller pack.max_length, or adapter.kind=qlora"
        return (
            f"memory: {self.card.name} has {self.card.memory / GIB:.1f} GiB, predicted peak {self.total / GIB:.2f} GiB "
            f"at {self.tokens:,} tokens a micro-batch, recompute {self.level} ({listed}): {verdict}"
        )


def traced_levels(recipe: Recipe, *, is_cuda: bool) -> tuple[bool, ...]:
    """Return the choices for recomputing all layers, the faster one first; empty where the level is not traced.

    Example:
        A card keeps all activations where they fit, and else computes all layers again; a CPU keeps them.
    """
    level = requested_level(recipe.train, is_cuda=is_cuda)
    if level in ("elementwise", "offload"):
        return ()
    return (False, True) if level is None else (level in WHOLE,)


def fresh(adapter: LoraAdapter) -> LoraAdapter:
    """Return the settings without an adapter to continue: its weights are not read for a trace."""
    alpha = float(2 * adapter.r) if adapter.alpha == "auto" else adapter.alpha
    return adapter.model_copy(update={"init_from": None, "alpha": alpha})


def predicted_step(traced: TracedMemory, tokens: int) -> int:
    """Return the bytes that the forward and backward pass of a micro-batch of some tokens holds.

    Example:
        >>> traced = TracedMemory(weights=0, widest=0, tokens=128, fixed=100, per_item=1280, recomputes=False)
        >>> predicted_step(traced, 256)
        2660
    """
    return traced["fixed"] + traced["per_item"] * tokens // traced["tokens"]


def choose(
    recipe: Recipe,
    traces: Sequence[TracedMemory],
    weights: WeightNumbers,
    tokens: Mapping[int, int],
    *,
    share: int,
    processes: int,
    card: Card,
) -> TracedPlan:
    """Return the fastest plan that fits; where none does, the one that needs the least.

    Args:
        recipe: What is asked for.
        traces: A traced step for each level that may be chosen, the faster one first.
        weights: Of the model.
        tokens: Size of a micro-batch -> tokens of the largest one, padding included.
        share: Items that a process takes in a step.
        processes: Number of processes.
        card: Where the model trains.
    """
    usual = TOKENS_PER_MICRO_BATCH["cuda" if card.is_cuda else "cpu"]
    # larger micro-batches are hardly faster; one item is the least
    sizes = sorted((size for size in tokens if tokens[size] <= usual), reverse=True) or [min(tokens)]
    plans = [
        _plan(recipe, traced, weights, size, tokens[size], adds_up=share > size or processes > 1, card=card)
        for traced in traces
        for size in (sizes if traced["recomputes"] or len(traces) == 1 else sizes[:SIZES_TO_KEEP_ALL])
    ]
    return next((plan for plan in plans if plan.fits), None) or min(plans, key=lambda plan: plan.total)


def _plan(
    recipe: Recipe,
    traced: TracedMemory,
    weights: WeightNumbers,
    size: int,
    tokens: int,
    *,
    adds_up: bool,
    card: Card,
) -> TracedPlan:
    """Add up the bytes of a plan; `adds_up`: gradients of earlier micro-batches are there in the forward pass."""
    kinds = Kinds.of(recipe, is_cuda=card.is_cuda)
    of_weights, step = traced["weights"], predicted_step(traced, tokens)
    if settings := four_bit_of(recipe.adapter):
        packed = four_bit_bytes(weights.four_bit, double=settings.bnb_4bit_use_double_quant)
        of_weights += packed - weights.four_bit * kinds.weights  # the trace holds them wide
        step += traced["widest"] * kinds.product  # dequantised for its product
    states = STATES.get(recipe.train.optim)
    parts = {
        "weights": of_weights,
        "optimizer": eight_bit_states(weights.trained) if states is None else states * weights.trained,
        "gradients": weights.trained * kinds.adapter if adds_up else 0,
        "step": step,
    }
    parts["reserve"] = (RESERVE_CUDA if card.is_cuda else RESERVE_CPU) + int(RESERVE_SHARE * sum(parts.values()))
    return TracedPlan(size, tokens, traced["recomputes"], parts, card)
