"""Prompts that begin alike, so that the beginning is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

MIN_SHARED = 16
"""A shorter beginning costs more to handle than it saves."""
MIN_ROWS = 8
"""Fewer prompts are no group of their own: small batches waste more than a prefix saves."""


def common_length(prompts: Sequence[list[int]]) -> int:
    """Return how many first tokens all prompts share, leaving at least one token of each."""
    first, last = min(prompts), max(prompts)  # all others stand between them
    limit = min(map(len, prompts)) - 1
    return next((place for place in range(limit) if first[place] != last[place]), limit)


def groups(prompts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Return (length of the shared beginning, places of the prompts, longest prompt first) of each group."""
    found = _split(prompts, sorted(range(len(prompts)), key=prompts.__getitem__)) if prompts else []
    return [(shared, sorted(places, key=lambda place: -len(prompts[place]))) for shared, places in found]


def _split(prompts: Sequence[list[int]], places: list[int]) -> list[tuple[int, list[int]]]:
    """Part prompts (in token order) where the parts share much more than the whole."""
    shared = common_length([prompts[places[0]], prompts[places[-1]]])
    shared = min([shared, *(len(prompts[place]) - 1 for place in places)])
    rest: list[int] = []
    parts: list[tuple[int, list[int]]] = []
    for _, members in groupby(places, key=lambda place: prompts[place][shared : shared + 1]):
        part = list(members)
        own = common_length([prompts[place] for place in part])
        if MIN_ROWS <= len(part) < len(places) and own >= shared + MIN_SHARED:
            parts += _split(prompts, part)
        else:
            rest += part
    if not rest:
        return parts
    if parts:  # what is left may share more than before
        shared = common_length([prompts[place] for place in rest])
    return [*parts, (shared if shared >= MIN_SHARED and len(rest) > 1 else 0, rest)]
