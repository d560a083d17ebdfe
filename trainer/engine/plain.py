"""Compute attention segment by segment with torch's own functions, on any device and in any type.

    scores = scale q k^T, bounded by c tanh(scores / c) where there is a soft cap c
    output = softmax(scores + mask) v

Shapes: T tokens, h query heads, g key heads, d head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trainer.engine.segments import Segment, Segments


def by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    scale: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return causal attention inside each segment; for the CPU, float32, soft caps and sinks.

    Args:
        query: (1, h, T, d).
        key: (1, g, T, d).
        value: (1, g, T, value size).
        segments: Of the batch.
        scale: Of the scores; None: 1 / sqrt(d).
        window: Largest number of keys of a query, itself included.
        dropout: Of the attention weights.
        softcap: Bound on the scores, by tanh.
        sinks: (h,) scores of a key without value.

    Returns:
        (1, T, h, value size).
    """
    outputs = []
    for span in segments.spans:
        q = query[:, :, span.low : span.high]
        k, v = _keys(key, span), _keys(value, span)
        if softcap or sinks is not None:
            mask = segments.mask(span, _effective(window, span), query)
            outputs.append(_spelled_out(q, k, v, mask, scale, dropout, softcap, sinks))
        else:
            outputs.append(_plain(q, k, v, segments, span, scale, _effective(window, span), dropout))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()  # (1, h, T, d) -> (1, T, h, d)


def _effective(window: int | None, span: Segment) -> int | None:
    return window if window is not None and window < span.num_keys else None


def _keys(tensor: torch.Tensor, span: Segment) -> torch.Tensor:
    keys = tensor[:, :, span.low : span.high]
    if span.prefix_high == span.prefix_low:
        return keys
    return torch.cat([tensor[:, :, span.prefix_low : span.prefix_high], keys], dim=2)


def _plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    span: Segment,
    scale: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    # without a prefix torch's own causal flag is right, and needs no mask of (queries, keys)
    is_square = span.num_queries == span.num_keys and window is None
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if is_square else segments.mask(span, window, q),
        is_causal=is_square,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _spelled_out(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Compute attention with a bound on the scores, and with sinks: one more column of scores, without a value.

    Source: Gemma 2 (https://arxiv.org/abs/2408.00118, section 2), gpt-oss (https://arxiv.org/abs/2508.10925).
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (1, g, keys, d) -> (1, h, keys, d)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)  # (1, h, queries, keys)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(-1, -1, scores.shape[2], 1).to(scores.dtype)
        scores = torch.cat([scores, column], dim=3)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q.dtype)
    weights = F.dropout(weights[..., : k.shape[2]], dropout, training=dropout > 0)  # the sink has taken its share
    return weights @ v
