"""Who attends to whom in a flat batch.

Rows follow each other in one sequence of T tokens, without padding. Each segment is a run of queries; its keys are an
optional prefix elsewhere in the batch, then the segment itself. Attention is causal and aligned at the lower right:
a query sees the whole prefix and its own segment up to itself.

    two rows [a a a] [b b]            tokens  a a a b b            segments  0:3, 3:5
    a pair of prompt p, chosen c,     tokens  p p c c c r r        segments  0:5, 5:7 after the prefix 0:2
    rejected r

The rejected answer continues the prompt exactly as if it had been written behind it, so the prompt is computed once
for both (https://arxiv.org/abs/2410.20305 does the same with block masks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch


class Segment(NamedTuple):
    """Places in the flat batch: queries low:high, keys prefix_low:prefix_high and then low:high."""

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

    Lengths stand on the host too, so that no layer has to ask the device for them.
    """

    spans: tuple[Segment, ...]
    starts_q: torch.Tensor
    """(segments + 1,) int32: where each segment's queries start."""
    starts_k: torch.Tensor
    """(segments + 1,) int32: where each segment's keys start, among the gathered keys."""
    key_index: torch.Tensor | None
    """(gathered keys,) int64: places of the keys; None where keys and queries are the same tokens."""
    masks: dict[tuple[int, int, int | None, torch.dtype], torch.Tensor] = field(default_factory=dict)
    """Masks already made; every layer needs the same ones."""

    @classmethod
    def of(cls, spans: Sequence[Segment]) -> Segments:
        """Build from segments that cover a flat batch in order."""
        shares = any(span.prefix_high > span.prefix_low for span in spans)
        return cls(
            spans=tuple(spans),
            starts_q=_starts([span.num_queries for span in spans]),
            starts_k=_starts([span.num_keys for span in spans]),
            key_index=torch.cat([place for span in spans for place in _places(span)]) if shares else None,
        )

    @property
    def longest_q(self) -> int:
        """Return the most queries of a segment."""
        return max(span.num_queries for span in self.spans)

    @property
    def longest_k(self) -> int:
        """Return the most keys of a segment."""
        return max(span.num_keys for span in self.spans)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Segments:
        """Return the segments with their tensors on a device."""
        index = self.key_index
        return Segments(
            self.spans,
            self.starts_q.to(device, non_blocking=non_blocking),
            self.starts_k.to(device, non_blocking=non_blocking),
            None if index is None else index.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Segments:
        """Return the segments in page-locked memory."""
        index = self.key_index
        return Segments(
            self.spans,
            self.starts_q.pin_memory(),
            self.starts_k.pin_memory(),
            None if index is None else index.pin_memory(),
        )

    def mask(self, span: Segment, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return the additive mask of a segment, (queries, keys) in the type and place of `like`."""
        key = (span.num_queries, span.num_keys, window, like.dtype)
        if key not in self.masks:
            self.masks[key] = lower_right(span.num_queries, span.num_keys, window, like)
        return self.masks[key]


def lower_right(num_queries: int, num_keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Return an additive causal mask, (queries, keys), in which the last query sees the last key.

    Args:
        num_queries: Rows.
        num_keys: Columns.
        window: Keys that a query sees at most, itself included.
        like: Gives type and device.
    """
    hidden = torch.full((num_queries, num_keys), float("-inf"), dtype=like.dtype, device=like.device)
    shift = num_keys - num_queries
    mask = hidden.triu(shift + 1)
    return mask if window is None else mask + hidden.tril(shift - window)


def _starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def _places(span: Segment) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(span.prefix_low, span.prefix_high), torch.arange(span.low, span.high)
