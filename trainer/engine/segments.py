"""Define which tokens of a flat batch attend to which.

Rows follow each other in one sequence of T tokens, without padding. Each segment is a run of queries; its keys are an
optional prefix elsewhere in the batch, then the segment itself. Attention is causal and aligned at the lower right:
a query attends to the prefix, and to its segment up to itself.

    two rows [a a a] [b b]            tokens  a a a b b            segments  0:3, 3:5
    a pair of prompt p, chosen c,     tokens  p p c c c r r        segments  0:5, 5:7 after the prefix 0:2
    rejected r

Keys (columns) that each query (row) of that pair attends to, as one mask; it is never built:

          p p c c c r r
        p x
        p x x
        c x x x
        c x x x x
        c x x x x x
        r x x       x
        r x x       x x

The rejected answer attends to the prompt as if it followed directly, so the prompt is computed once for both answers
(https://arxiv.org/abs/2410.20305 does the same with block masks).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch


class Segment(NamedTuple):
    """Indices into the flat batch: queries low:high, keys prefix_low:prefix_high and then low:high."""

    low: int
    high: int
    prefix_low: int = 0
    prefix_high: int = 0

    @property
    def num_queries(self) -> int:
        """Return the number of queries."""
        return self.high - self.low

    @property
    def num_keys(self) -> int:
        """Return the number of keys."""
        return self.num_queries + self.prefix_high - self.prefix_low


@dataclass(frozen=True)
class Segments:
    """The segments of one batch, for the host and for a variable-length kernel.

    Lengths are on the host too, so that no layer waits for the device.

    Example:
        A pair: prompt of 2 tokens, chosen answer of 3, rejected answer of 2 that also attends to the prompt.

        >>> segments = Segments.of([Segment(0, 5), Segment(5, 7, 0, 2)])
        >>> segments.starts_q.tolist(), segments.starts_k.tolist()
        ([0, 5, 7], [0, 5, 9])
        >>> segments.key_index.tolist()  # type: ignore[union-attr]
        [0, 1, 2, 3, 4, 0, 1, 5, 6]
    """

    spans: tuple[Segment, ...]
    starts_q: torch.Tensor
    """(segments + 1,) int32: index of each segment's first query."""
    starts_k: torch.Tensor
    """(segments + 1,) int32: index of each segment's first key, among the gathered keys."""
    key_index: torch.Tensor | None
    """(gathered keys,) int64: tokens of the keys; None where keys and queries are the same tokens."""
    masks: dict[tuple[int, int, int | None, torch.dtype], torch.Tensor] = field(default_factory=dict)
    """Masks by queries, keys, window and type; all layers share them."""
    kernels: set[str] = field(default_factory=set)
    """Names of what has computed attention on this batch."""
    lines: dict[str, Any] = field(default_factory=dict)
    """Rows as lines for recurrent layers, by the way these compute; all layers share them."""

    @classmethod
    def of(cls, spans: Sequence[Segment]) -> Segments:
        """Build from segments that cover a flat batch in order."""
        shares = any(span.prefix_high > span.prefix_low for span in spans)
        return cls(
            spans=tuple(spans),
            starts_q=_starts([span.num_queries for span in spans]),
            starts_k=_starts([span.num_keys for span in spans]),
            key_index=torch.cat([tokens for span in spans for tokens in _key_tokens(span)]) if shares else None,
        )

    @functools.cached_property
    def longest_q(self) -> int:
        """Return the most queries of a segment."""
        return max(span.num_queries for span in self.spans)

    @functools.cached_property
    def longest_k(self) -> int:
        """Return the most keys of a segment."""
        return max(span.num_keys for span in self.spans)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Segments:
        """Return the segments with their tensors on a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Segments:
        """Return the segments in page-locked memory."""
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Segments:
        index = None if self.key_index is None else function(self.key_index)
        return Segments(self.spans, function(self.starts_q), function(self.starts_k), index)

    def mask(self, span: Segment, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return the additive mask of a segment, (queries, keys), with type and device of `like`."""
        key = (span.num_queries, span.num_keys, window, like.dtype)
        if key not in self.masks:
            self.masks[key] = lower_right(span.num_queries, span.num_keys, window, like)
        return self.masks[key]


def lower_right(num_queries: int, num_keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Return an additive causal mask, (queries, keys), in which the last query attends to the last key.

    Args:
        num_queries: Rows.
        num_keys: Columns.
        window: Largest number of keys of a query, itself included.
        like: Gives type and device.

    Example:
        >>> lower_right(2, 4, None, torch.zeros(())).tolist()
        [[0.0, 0.0, 0.0, -inf], [0.0, 0.0, 0.0, 0.0]]
        >>> lower_right(2, 4, 2, torch.zeros(())).tolist()
        [[-inf, 0.0, 0.0, -inf], [-inf, -inf, 0.0, 0.0]]
    """
    hidden = torch.full((num_queries, num_keys), float("-inf"), dtype=like.dtype, device=like.device)
    shift = num_keys - num_queries  # query i sees keys up to i + shift
    mask = hidden.triu(shift + 1)
    return mask if window is None else mask + hidden.tril(shift - window)  # and none before i + shift - window + 1


def _starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def _key_tokens(span: Segment) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(span.prefix_low, span.prefix_high), torch.arange(span.low, span.high)
