"""Find templated rows: many similar rows that differ in the slots of one pattern."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.union_find import Parents

PATTERN_ROWS = 10
"""A row and nine others that fill the same slots otherwise make a pattern."""

Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


def find_patterns(pairs: Rows, chosen: Flags, num_rows: int) -> Flags:
    """Tell pairs whose rows belong to a pattern.

    Args:
        pairs: (pairs, 2) rows.
        chosen: (pairs,) pairs that are near and differ in a value, or word by word.
        num_rows: all rows.

    Returns:
        (pairs,) true where both rows are of a pattern: they have enough neighbours, or are one of these.

    Example:
        Row 0 is near rows 1 to 9, and row 10 is near row 11: only row 0 has nine neighbours.

        >>> pairs = np.array([(0, row) for row in range(1, 10)] + [(10, 11)])
        >>> find_patterns(pairs, np.ones(10, np.bool_), 12)[[0, 8, 9]]
        array([ True,  True, False])
    """
    neighbours = pairs[chosen]
    # density-based clustering: cores have enough neighbours, members are next to a core
    is_core = np.bincount(neighbours.reshape(-1), minlength=num_rows) >= PATTERN_ROWS - 1
    is_member = is_core.copy()
    is_member[neighbours[is_core[neighbours].any(axis=1)]] = True
    return is_member[pairs[:, 0]] & is_member[pairs[:, 1]]


def group_patterns(pairs: Rows, num_rows: int) -> list[Rows]:
    """Return the rows of each pattern, the largest first.

    Args:
        pairs: (pairs, 2) rows that differ in the slots of a pattern.
        num_rows: all rows.
    """
    members, indices = np.unique(pairs, return_inverse=True)
    parents = Parents(members.size)
    for left, right in indices.reshape(-1, 2).tolist():
        parents.join(left, right)
    roots = parents.roots()
    order = np.argsort(roots, kind="stable")
    # cut where the root changes
    groups = np.split(members[order], np.flatnonzero(np.diff(roots[order])) + 1) if members.size else []
    return sorted(groups, key=lambda group: (-group.size, int(group[0])))
