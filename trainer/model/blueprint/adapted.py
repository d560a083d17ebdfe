"""Count the weights of each kind: those that get an adapter, and those held in 4 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from trainer.model.blueprint.kinds import SortedWeight
from trainer.shapes.blueprint import WEIGHT_KINDS, WeightCount, WeightKind


def adapted_weights(model: nn.Module) -> set[int]:
    """Return the identities of base weights with an adapter, and of those that are trained themselves."""
    identities: set[int] = set()
    for module in model.modules():
        if hasattr(module, "lora_A") or hasattr(module, "lora_embedding_A"):
            layer = module.get_base_layer() if hasattr(module, "get_base_layer") else module
            parameter_name = getattr(module, "parameter_name", None)
            parameters = [getattr(layer, parameter_name)] if parameter_name else layer.parameters(recurse=False)
            identities |= {id(parameter) for parameter in parameters}
    return identities


def count_kinds(
    weights: Sequence[SortedWeight], adapted: Iterable[int], four_bit: Iterable[int]
) -> dict[WeightKind, WeightCount]:
    """Add up the weights of each kind.

    Args:
        weights: Of the model.
        adapted: Identities of those with an adapter.
        four_bit: Identities of those in 4 bits.
    """
    with_adapter, quantised = set(adapted), set(four_bit)
    totals: Counter[tuple[WeightKind, str]] = Counter()
    for weight in weights:
        size, identity = weight.parameter.numel(), id(weight.parameter)
        totals[weight.kind, "all"] += size
        totals[weight.kind, "active"] += weight.active
        totals[weight.kind, "adapted"] += size * (identity in with_adapter)
        totals[weight.kind, "four_bit"] += size * (identity in quantised)
    return {
        kind: WeightCount(
            all=totals[kind, "all"],
            active=totals[kind, "active"],
            adapted=totals[kind, "adapted"],
            four_bit=totals[kind, "four_bit"],
        )
        for kind in WEIGHT_KINDS
        if totals[kind, "all"]
    }
