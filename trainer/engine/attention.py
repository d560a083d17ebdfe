"""Compute attention inside the segments of a flat batch, for models that ask transformers for an attention function.

After `switch_on(model)` the model builds no mask; the segments are the current ones. A keyword that is not implemented
raises `NotCovered`, so that such a model falls back to its own attention instead of being trained wrongly.

Shapes: T tokens, h query heads, g key heads (g divides h), d head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AttentionInterface, PreTrainedModel

from trainer.engine import current, flash
from trainer.engine.plain import by_segment

NAME = "segments"
PLAIN = "scaled dot products on each segment"
UNLIMITED = {"full_attention", "hybrid", "linear_attention", "conv", "moe"}
WINDOWED = {"sliding_attention", "hybrid_sliding"}
"""Types of layers by the reach of their attention. Others limit it by a mask that the test rows may not reach."""
WITHOUT_EFFECT = frozenset(
    {"position_ids", "use_cache", "cache_position", "position_embeddings", "past_key_values", "output_router_logits"}
)
"""Keywords that decoder layers pass on and no attention function reads."""


class NotCovered(Exception):
    """The model's attention has a feature that is not implemented here."""


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **ignored: object,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers' attention functions do.

    Args:
        module: The attention layer.
        query: (1, h, T, d).
        key: (1, g, T, d).
        value: (1, g, T, value size).
        attention_mask: None: segments replace it.
        scaling: Of the scores.
        dropout: Of the attention weights.
        is_causal: Not False.
        sliding_window: Largest number of keys of a query, itself included.
        softcap: Bound c on the scores: c tanh(score / c).
        s_aux: (h,) scores of a key without a value ("sink").
        ignored: Only keywords without effect.

    Returns:
        (1, T, h, value size), and None for the weights.

    Raises:
        NotCovered: A keyword asks for another feature.
    """
    segments = current.segments()
    if segments is None:
        raise NotCovered("attention inside a layer that computes row by row")
    _check(module, attention_mask, is_causal, sliding_window, ignored)
    # the kernel has no dropout, soft cap or sinks: those are computed by torch, segment by segment
    if not dropout and not softcap and s_aux is None and flash.covers(query, key, value):
        segments.kernels.add(flash.name())
        return flash.attend(query, key, value, segments, scale=scaling, window=sliding_window), None
    segments.kernels.add(PLAIN)
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
    mask: torch.Tensor | None,
    is_causal: bool | None,
    window: int | None,
    keywords: dict[str, object],
) -> None:
    if mask is not None or is_causal is False:
        raise NotCovered("the model wants attention that is not causal")
    # Long rows would see keys beyond the window; the rows of the start-up test may be too short to show it.
    kinds = _layer_types(module)
    if window is None and (kinds & WINDOWED or (not kinds and _has_window(module))):
        raise NotCovered("the model limits attention to a window by a mask, not by a keyword")
    if limited := sorted(kinds - UNLIMITED - WINDOWED):
        raise NotCovered(f"the model has {limited[0]} layers")
    used = {name for name, value in keywords.items() if value is not None and value is not False}
    unknown = sorted(used - WITHOUT_EFFECT)
    if unknown:
        raise NotCovered(f"the model passes {', '.join(unknown)} to its attention")


def _layer_types(module: torch.nn.Module) -> set[str]:
    """Return the type of an attention layer in the model's configuration; all types where the layer has no number."""
    types: Sequence[str] = getattr(getattr(module, "config", None), "layer_types", None) or ()
    index = getattr(module, "layer_idx", None)
    return {types[index]} if index is not None and index < len(types) else set(types)


def _has_window(module: torch.nn.Module) -> bool:
    """Tell whether the model's configuration limits the attention of all layers to a window."""
    config = getattr(module, "config", None)
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True) is not False


def switch_on(model: PreTrainedModel) -> None:
    """Let a transformers model use segments."""
    model._attention_before = model.config._attn_implementation
    model.set_attn_implementation(NAME)


def switch_off(model: PreTrainedModel) -> None:
    """Restore the attention from before `switch_on`; without one before, do nothing."""
    if hasattr(model, "_attention_before"):
        model.set_attn_implementation(model._attention_before)
        del model._attention_before
