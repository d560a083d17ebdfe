"""Attention inside the segments of a flat batch, for every model that asks transformers for its attention function.

`switch_on(model)` puts it in; the model is then called with `segments=` and builds no mask. A keyword that is not
honoured raises, so that a model with another idea of attention falls back instead of being trained wrongly.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from trainer.engine import flash
from trainer.engine.plain import by_segment
from trainer.engine.segments import Segments

NAME = "segments"
FULL, SLIDING = "full_attention", "sliding_attention"
WITHOUT_EFFECT = frozenset(
    {"position_ids", "use_cache", "cache_position", "position_embeddings", "past_key_values", "output_router_logits"}
)
"""Keywords that decoder layers hand on and that no attention function reads."""


class NotCovered(Exception):
    """The model wants something of its attention that is not built here."""


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers' attention functions do.

    Args:
        module: The attention layer.
        query: (1, heads, T, head size).
        key: (1, key heads, T, head size).
        value: (1, key heads, T, value size).
        attention_mask: None, for the segments say it all.
        segments: Of the batch.
        scaling: Of the scores.
        dropout: Of the attention weights.
        is_causal: Not False.
        sliding_window: Keys that a query sees at most, itself included.
        softcap: Bound on the scores, by tanh.
        s_aux: (heads,) scores of a key that has no value ("sink").
        others: Only keywords without effect.

    Returns:
        (1, T, heads, value size), and None for the weights.

    Raises:
        NotCovered: A keyword asks for something else.
    """
    _check(module, segments, attention_mask, is_causal, sliding_window, others)
    assert segments is not None
    if not dropout and not softcap and s_aux is None and flash.covers(query, key, value):
        return flash.attend(query, key, value, segments, scale=scaling, window=sliding_window), None
    output = by_segment(
        query,
        key,
        value,
        segments,
        scale=scaling,
        window=sliding_window,
        dropout=dropout,
        softcap=softcap,
        sinks=s_aux,
    )
    return output, None


AttentionInterface.register(NAME, segment_attention)


def _check(
    module: torch.nn.Module,
    segments: Segments | None,
    mask: torch.Tensor | None,
    is_causal: bool | None,
    window: int | None,
    others: dict[str, Any],
) -> None:
    if segments is None:
        raise NotCovered("the model does not hand `segments` to its attention layers")
    if mask is not None or is_causal is False:
        raise NotCovered("the model wants attention that is not causal")
    if window is None and _has_window(module):
        raise NotCovered("the model limits attention to a window by a mask, not by a keyword")
    asked = {name for name, value in others.items() if value is not None and value is not False}
    unknown = sorted(asked - WITHOUT_EFFECT)
    if unknown:
        raise NotCovered(f"the model hands {', '.join(unknown)} to its attention")


def _has_window(module: torch.nn.Module) -> bool:
    """Tell whether the model's configuration limits this layer's attention to a window."""
    config = getattr(module, "config", None)
    types, index = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if types and index is not None and index < len(types):
        return bool(types[index] == SLIDING)
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True) is not False


def switch_on(model: Any) -> None:
    """Let a transformers model use segments."""
    model._attention_before = model.config._attn_implementation
    model.set_attn_implementation(NAME)


def switch_off(model: Any) -> None:
    """Give the model the attention back that it had; one that uses no segments stays as it is."""
    if hasattr(model, "_attention_before"):
        model.set_attn_implementation(model._attention_before)
        del model._attention_before
