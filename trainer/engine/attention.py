"""Compute attention inside the segments of a flat batch, for models that ask transformers for an attention function.

After `switch_on(model)` the model is called with `segments=` and builds no mask. A keyword that is not implemented
raises `NotCovered`, so that such a model falls back to its own attention instead of being trained wrongly.

Shapes: T tokens, h query heads, g key heads (g divides h), d head size.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, PreTrainedModel

from trainer.engine import flash
from trainer.engine.plain import by_segment
from trainer.engine.segments import Segments

NAME = "segments"
PLAIN = "scaled dot products on each segment"
FULL, SLIDING = "full_attention", "sliding_attention"
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
    segments: Segments | None = None,
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
        segments: Of the batch.
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
    _check(module, segments, attention_mask, is_causal, sliding_window, ignored)
    assert segments is not None
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
    segments: Segments | None,
    mask: torch.Tensor | None,
    is_causal: bool | None,
    window: int | None,
    keywords: dict[str, object],
) -> None:
    if segments is None:
        raise NotCovered("the model does not pass `segments` to its attention layers")
    if mask is not None or is_causal is False:
        raise NotCovered("the model wants attention that is not causal")
    # Long rows would see keys beyond the window; the rows of the start-up test may be too short to show it.
    if window is None and _has_window(module):
        raise NotCovered("the model limits attention to a window by a mask, not by a keyword")
    used = {name for name, value in keywords.items() if value is not None and value is not False}
    unknown = sorted(used - WITHOUT_EFFECT)
    if unknown:
        raise NotCovered(f"the model passes {', '.join(unknown)} to its attention")


def _has_window(module: torch.nn.Module) -> bool:
    """Tell whether the model's configuration limits this layer's attention to a window."""
    config = getattr(module, "config", None)
    types, index = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if types and index is not None and index < len(types):
        return bool(types[index] == SLIDING)
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
