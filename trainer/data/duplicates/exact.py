"""Find repeated rows and contradictions by the keys of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]


def find_exact_duplicates(content: Keys) -> dict[int, int]:
    """Find rows whose normalised content an earlier row already has.

    Args:
        content: (rows,) content keys.

    Returns:
        Index of each repeated row -> index of the row that is kept, the first one.

    Example:
        >>> find_exact_duplicates(np.array([5, 6, 5, 5], np.uint64))
        {2: 0, 3: 0}
    """
    _, first, inverse = np.unique(content, return_index=True, return_inverse=True)
    original = first[inverse]  # (rows,): the first row with the same key
    repeated = np.flatnonzero(original != np.arange(content.size))
    return dict(zip(repeated.tolist(), original[repeated].tolist(), strict=True))


def find_conflicts(prompt: Keys, context: Keys, answer: Keys) -> list[list[int]]:
    """Find rows that ask the same in the same context and answer differently.

    Args:
        prompt: (rows,) key of the last prompt.
        context: (rows,) key of system turn and tools.
        answer: (rows,) key of the last answer.

    Returns:
        Groups of rows, in the order of their first rows.

    Example:
        Rows 0 and 2 ask 7 and answer 1 and 2; rows 1 and 3 ask 8 and answer alike.

        >>> keys = np.array([[7, 8, 7, 8], [0, 0, 0, 0], [1, 5, 2, 5]], np.uint64)
        >>> find_conflicts(*keys)
        [[0, 2]]
    """
    questions = np.stack([prompt, context], axis=1)
    _, first, group_of, sizes = np.unique(questions, axis=0, return_index=True, return_inverse=True, return_counts=True)
    group_of = group_of.reshape(-1)
    differs = answer != answer[first[group_of]]  # unlike the first row of its group: two answers at least
    is_conflict = np.zeros(sizes.size, np.bool_)
    is_conflict[group_of[differs]] = True
    rows = np.flatnonzero(is_conflict[group_of])
    groups: dict[int, list[int]] = {}
    for row, group in zip(rows.tolist(), group_of[rows].tolist(), strict=True):
        groups.setdefault(group, []).append(row)
    return list(groups.values())
