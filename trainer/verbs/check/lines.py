"""Write a blueprint as the lines of `trainer check`."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.model.planning.quantised_sizes import four_bit_bytes
from trainer.recipe import Recipe
from trainer.recipe.model import four_bit_of, low_rank
from trainer.shapes.blueprint import WEIGHT_KINDS, Blueprint, WeightCount

GIB = 1 << 30
BYTES = 2
"""Of a weight in 16 bits."""


def lines(recipe: Recipe, blueprint: Blueprint) -> Iterator[str]:
    """Yield what a recipe makes of its model, most important first."""
    yield f"{'model':7} {_model(blueprint)}"
    if low_rank(recipe.adapter) is not None:
        yield f"{'adapter':7} {_adapter(blueprint)}"
        if blueprint["excluded"]:
            yield f"{'':7} none on {blueprint['excluded']}"
    if settings := four_bit_of(recipe.adapter):
        yield f"{'4 bits':7} {_four_bits(blueprint, double=settings.bnb_4bit_use_double_quant)}"
    yield f"{'rows':7} {_rows(recipe, blueprint)}"
    for note in blueprint["notes"]:
        yield f"{'':7} {note}"


def _model(blueprint: Blueprint) -> str:
    counts = blueprint["counts"].values()
    total, active = (sum(count[name] for count in counts) for name in ("all", "active"))
    text = f"{blueprint['model_class']} ({blueprint['loader']}), {short(total)} weights"
    if active < total:
        text += f", {short(active)} active"
    if blueprint["towers"]:
        tower = blueprint["counts"].get("tower")
        size = f" ({short(tower['all'])})" if tower else ""
        text += f"; not used by text{size}: {', '.join(name.rpartition('.')[2] for name in blueprint['towers'])}"
    return text


def _adapter(blueprint: Blueprint) -> str:
    """Say which share of the weights gets an adapter, in all and of those that one token uses."""
    counts = blueprint["counts"]
    total, adapted = (sum(count[name] for count in counts.values()) for name in ("all", "adapted"))
    active = sum(count["active"] for count in counts.values())
    active_adapted = sum(_active_adapted(count) for count in counts.values())
    share = f"beside {adapted / total:.0%} of all weights"
    if active < total:
        share += f", {active_adapted / active:.0%} of the active ones"
    kinds = ", ".join(
        f"{kind} {counts[kind]['adapted'] / counts[kind]['all']:.0%}"
        for kind in WEIGHT_KINDS
        if kind in counts and (kind not in ("other", "tower", "embedding") or counts[kind]["adapted"])
    )
    return f"{share} ({kinds}); {short(blueprint['trained'])} weights trained in {blueprint['adapted_layers']} layers"


def _active_adapted(count: WeightCount) -> float:
    return count["active"] * count["adapted"] / count["all"]


def _four_bits(blueprint: Blueprint, *, double: bool) -> str:
    counts = blueprint["counts"]
    quantised = four_bit_bytes(sum(count["four_bit"] for count in counts.values()), double=double)
    remaining = {kind: BYTES * (count["all"] - count["four_bit"]) for kind, count in counts.items()}
    largest = sorted((size, kind) for kind, size in remaining.items() if size)[::-1]
    parts = ", ".join(f"{kind} {gib(size)}" for size, kind in largest[:3])
    return f"{gib(quantised)} in 4 bits, {gib(sum(remaining.values()))} stay in 16 bits ({parts})"


def _rows(recipe: Recipe, blueprint: Blueprint) -> str:
    if blueprint["padded"] is None:
        return "flat batches without padding, packed" if recipe.pack.packing is not False else "flat batches"
    packing = "" if blueprint["unpacked"] is None else "; not packed: " + blueprint["unpacked"].partition(" (")[0]
    return f"padded: {blueprint['padded']}{packing}"


def short(number: int) -> str:
    """Return a number of weights with its unit.

    Example:
        >>> short(4_300_000_000), short(124_439_808), short(26_016)
        ('4.3 B', '124 M', '26 k')
    """
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 10 * size else f"{number / size:.0f} {unit}"
    return str(number)


def gib(size: int) -> str:
    """Return bytes in GiB.

    Example:
        >>> gib(3 << 29)
        '1.50 GiB'
    """
    return f"{size / GIB:.2f} GiB"
