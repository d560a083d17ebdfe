"""Lay the rows of a flat batch out as lines of similar length, and bring results back to the flat batch.

A recurrent layer knows no borders between rows: its state runs from one row into the next. So it computes lines, each
of which is one row, from its first token on. A row's tokens are the keys of its segment: a rejected answer comes after
its prompt, which is computed once more for it.

    flat      a a a b b b b c        lines of the first group   b b b b      of the second   c
              0 1 2 3 4 5 6 7                                   a a a a

The last token of a short row fills its line up. Nothing reads what is computed from it, so its gradient is zero. A
group holds lengths down to half of its longest one: no more than half of what is computed is for nothing, and the
number of groups is logarithmic in the ratio of lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from trainer.engine.segments import Segment, Segments

SHORTEST = 0.5
"""Shortest row of a group as a share of its longest."""


@dataclass(frozen=True)
class Lines:
    """Rows of a flat batch of T tokens as groups of lines.

    Example:
        A pair: prompt of 2 tokens and chosen answer of 3, then a rejected answer of 1; and a row of 1 token.

        >>> lines = Lines.padded(Segments.of([Segment(0, 5), Segment(5, 6, 0, 2), Segment(6, 7)]))
        >>> [index.tolist() for index in lines.groups], lines.shapes
        ([[0, 1, 2, 3, 4, 0, 1, 5, 5, 5], [6]], [(2, 5), (1, 1)])
        >>> lines.back.tolist()
        [0, 1, 2, 3, 4, 7, 10]
    """

    groups: list[torch.Tensor]
    """Of each group (lines * width,) int64: the flat token at each position."""
    shapes: list[tuple[int, int]]
    """Of each group: lines, width."""
    back: torch.Tensor
    """(T,) int64: position of each flat token among the positions of all groups."""

    @classmethod
    def padded(cls, segments: Segments, device: torch.device | str = "cpu") -> Lines:
        """Return one line for each segment."""
        spans = segments.spans
        groups, shapes, starts, start = [], [], dict[int, int](), 0
        # each group is a rectangle: as wide as its longest segment
        for members in _similar([span.num_keys for span in spans]):
            width = spans[members[0]].num_keys
            for member in members:
                starts[member] = start
                start += width
            groups.append(torch.cat([_filled(spans[member], width) for member in members]))
            shapes.append((len(members), width))
        return cls._of(groups, shapes, [starts[index] for index in range(len(spans))], spans, device)

    @classmethod
    def joined(cls, segments: Segments, device: torch.device | str = "cpu") -> Lines:
        """Return one line with the keys of all segments, for kernels that take the borders."""
        spans = segments.spans
        keys = [span.num_keys for span in spans]
        # cu_seqlens of the kernels: where each segment begins in the one long line
        starts = [0, *accumulate(keys)]
        index = torch.cat([_filled(span, span.num_keys) for span in spans])
        return cls._of([index], [(1, starts[-1])], starts[:-1], spans, device)

    @classmethod
    def _of(
        cls,
        groups: list[torch.Tensor],
        shapes: list[tuple[int, int]],
        starts: list[int],
        spans: Sequence[Segment],
        device: torch.device | str,
    ) -> Lines:
        """Build from the first position of each segment's line; its own tokens come after those of its prefix."""
        # keys of a segment: those of its prefix, then its own; only the own ones go back to the flat batch
        own = [
            torch.arange(start + span.num_keys - span.num_queries, start + span.num_keys)
            for start, span in zip(starts, spans, strict=True)
        ]
        # made on the host once a batch: building them on the card would wait for it in every layer
        to_device = [index.to(device, non_blocking=True) for index in groups]
        return cls(to_device, shapes, torch.cat(own).to(device, non_blocking=True))

    def split(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the lines of each group, (lines, width, ...), of a flat tensor (1, T, ...)."""
        return [
            tensor[0].index_select(0, index).unflatten(0, shape)
            for index, shape in zip(self.groups, self.shapes, strict=True)
        ]

    def merge(self, lines: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the flat tensor, (1, T, ...), of the lines of each group, (lines, width, ...)."""
        return torch.cat([tensor.flatten(0, 1) for tensor in lines]).index_select(0, self.back)[None]


def _similar(lengths: Sequence[int]) -> list[list[int]]:
    """Return indices of similar lengths together, each group with its longest first.

    Example:
        >>> _similar([3, 10, 1, 6])
        [[1, 3], [0], [2]]
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        # sorted downwards, so the first of a group is its longest
        if not groups or lengths[index] < SHORTEST * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(index)
    return groups


def _filled(span: Segment, width: int) -> torch.Tensor:
    """Return the flat tokens of a segment's keys, (width,), the last one repeated."""
    # shared prompt (prefix_low to prefix_high), then the row's own tokens
    keys = torch.cat([torch.arange(span.prefix_low, span.prefix_high), torch.arange(span.low, span.high)])
    return torch.cat([keys, keys[-1:].expand(width - len(keys))])
