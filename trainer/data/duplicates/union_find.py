"""Union-find over row numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]


class Parents:
    """Union-find over rows."""

    def __init__(self, num_rows: int) -> None:
        self.of = list(range(num_rows))
        self.sizes = [1] * num_rows

    def root(self, row: int) -> int:
        while self.of[row] != row:
            self.of[row] = row = self.of[self.of[row]]
        return row

    def roots(self) -> Rows:
        return np.array([self.root(row) for row in range(len(self.of))], np.int64)

    def join(self, left: int, right: int, limit: int | None = None) -> bool:
        """Put two rows into one group, unless it would have more than `limit` rows; return whether they are in one."""
        low, high = sorted((self.root(left), self.root(right)))
        if low == high:
            return True
        if limit is not None and self.sizes[low] + self.sizes[high] > limit:
            return False
        self.of[high] = low
        self.sizes[low] += self.sizes[high]
        return True

    def join_equal(self, keys: Keys, rows: Rows) -> None:
        """Join the rows that have a key in common."""
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        same = np.flatnonzero(keys[1:] == keys[:-1])
        for left, right in zip(rows[same].tolist(), rows[same + 1].tolist(), strict=True):
            self.join(left, right)
