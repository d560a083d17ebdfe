"""Group prompts that begin alike, so that the common beginning is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

MIN_SHARED = 16
"""A shorter beginning costs more to handle than it saves."""
MIN_ROWS = 8
"""Fewer prompts are no group of their own: small batches waste more than a prefix saves."""


def common_length(prompts: Sequence[list[int]]) -> int:
    """Return how many first tokens all prompts share.

    Example:
        >>> common_length([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3]])
        2
    """
    first, last = min(prompts), max(prompts)  # in the order of lists the two that share least
    equal = np.equal(first[: len(last)], last[: len(first)])
    return len(equal) if equal.all() else int(equal.argmin())


def groups(prompts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Return (length of the shared beginning, indices of the prompts, longest prompt first) of each group."""
    # sorted, prompts with one beginning stand side by side
    parts = _split(prompts, sorted(range(len(prompts)), key=prompts.__getitem__)) if prompts else []
    return [(shared, sorted(indices, key=lambda index: -len(prompts[index]))) for shared, indices in parts]


def _split(prompts: Sequence[list[int]], indices: list[int]) -> list[tuple[int, list[int]]]:
    """Split prompts (in token order) where the parts share much more than all of them."""
    shared = _shareable(prompts, indices)
    remaining: list[int] = []
    parts: list[tuple[int, list[int]]] = []
    # by the first token after what all share: parts share at least one token more
    for _, members in groupby(indices, key=lambda index: prompts[index][shared : shared + 1]):
        part = list(members)
        if MIN_ROWS <= len(part) < len(indices) and _shareable(prompts, part) >= shared + MIN_SHARED:
            parts += _split(prompts, part)
        else:
            remaining += part
    if not remaining:
        return parts
    shared = _shareable(prompts, remaining)  # prompts without the parts may share more than before
    return [*parts, (shared if shared >= MIN_SHARED and len(remaining) > 1 else 0, remaining)]


def _shareable(prompts: Sequence[list[int]], indices: list[int]) -> int:
    """Return how many first tokens some prompts share, leaving at least one token of each."""
    chosen = [prompts[index] for index in indices]
    return min(common_length(chosen), min(map(len, chosen)) - 1)
