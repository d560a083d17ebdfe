"""Count the weights of each kind: those that get an adapter, and those held in 4 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

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
    weights: Sequence[SortedWeight], adapted: Container[int], four_bit: Container[str]
) -> dict[WeightKind, WeightCount]:
    """Add up the weights of each kind.

    Args:
        weights: Of the model.
        adapted: Identities of those with an adapter.
        four_bit: Names of those in 4 bits.
    """
    totals: Counter[tuple[WeightKind, str]] = Counter()
    for weight in weights:
        size = weight.parameter.numel()
        totals[weight.kind, "all"] += size
        totals[weight.kind, "active"] += weight.active
        totals[weight.kind, "adapted"] += size * (id(weight.parameter) in adapted)
        totals[weight.kind, "four_bit"] += size * (weight.name in four_bit)
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
