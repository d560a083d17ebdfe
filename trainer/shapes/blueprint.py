"""Types of a blueprint: what a recipe makes of a model, read from the model's class without its weights."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

WeightKind = Literal["attention", "MLP", "experts", "router", "recurrent", "embedding", "head", "tower", "other"]
WEIGHT_KINDS: tuple[WeightKind, ...] = (
    "attention",
    "MLP",
    "experts",
    "router",
    "recurrent",
    "embedding",
    "head",
    "tower",
    "other",
)
"""In the order of the report.

recurrent: state spaces, linear attention, short convolutions. other: norms and scales.
"""


class WeightCount(TypedDict):
    """Weights of one kind."""

    all: int
    active: int
    """Used for one token: of experts, those that a router chooses."""
    adapted: int
    """In layers that get an adapter, or trained themselves."""
    four_bit: int
    """Held in 4 bits under qlora."""


class Obstacle(TypedDict):
    """Why a recipe cannot work with a model, and the way out."""

    message: str
    hint: str


class TracedMemory(TypedDict):
    """Bytes of a training step, traced on a model without weights."""

    weights: int
    """Of base and adapter, with the engine's margins; before any quantisation."""
    widest: int
    """Numbers of the largest weight in 4 bits, which is dequantised for its product."""
    tokens: int
    """Of an item in the trace."""
    fixed: int
    """What a forward and backward pass holds whatever the number of items."""
    per_item: int
    recomputes: bool
    """All layers are computed again in the backward pass."""


class Blueprint(TypedDict):
    """What a recipe makes of a model."""

    model_type: str
    loader: str
    """Class of transformers that loads it, such as AutoModelForCausalLM."""
    model_class: str
    """Class that this gives, such as Gemma3ForConditionalGeneration."""
    towers: list[str]
    """Modules that rows of text do not reach."""
    counts: dict[WeightKind, WeightCount]
    trained: int
    """Weights that move."""
    adapted_layers: int
    excluded: str
    """Which layers get no adapter, and why; empty where none is left out."""
    padded: str | None
    """Why rows are padded; None: they follow each other in flat batches."""
    unpacked: str | None
    """Why rows are not packed."""
    obstacles: list[Obstacle]
    """What of the recipe cannot work, such as a merge into quantised weights."""
    memory: list[TracedMemory]
    """A step for each level of recompute that may be chosen; empty where it cannot be traced: `notes` says why."""
    notes: list[str]
    """What could not be found out without weights."""
