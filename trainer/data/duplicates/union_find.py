"""Join rows into groups by union-find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]


class Parents:
    """Groups of rows as trees: each row points to a lesser row of its group, the least one to itself.

    Example:
        1-3 and 3-4 become one group; 0 stays out, since the group would have more than 3 rows.

        >>> parents = Parents(5)
        >>> parents.join(1, 3), parents.join(3, 4), parents.join(0, 4, limit=3)
        (True, True, False)
        >>> parents.roots()
        array([0, 1, 2, 1, 1])
    """

    def __init__(self, num_rows: int) -> None:
        self.parent = list(range(num_rows))
        self.sizes = [1] * num_rows

    def root(self, row: int) -> int:
        """Return the least row of the group, and halve the path to it."""
        while self.parent[row] != row:
            # path halving: about constant time a look-up (Tarjan and van Leeuwen 1984)
            self.parent[row] = row = self.parent[self.parent[row]]
        return row

    def roots(self) -> Rows:
        """Return (rows,): the least row of each row's group."""
        return np.array([self.root(row) for row in range(len(self.parent))], np.int64)

    def join(self, left: int, right: int, limit: int | None = None) -> bool:
        """Put two rows into one group, unless it would have more than `limit` rows; return whether they are in one."""
        low, high = sorted((self.root(left), self.root(right)))
        if low == high:
            return True
        if limit is not None and self.sizes[low] + self.sizes[high] > limit:
            return False
        # the lesser row becomes the root, so that groups are named by their first row in any order of joins
        self.parent[high] = low
        self.sizes[low] += self.sizes[high]
        return True

    def join_equal(self, keys: Keys, rows: Rows) -> None:
        """Join the rows that have a key in common."""
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        same = np.flatnonzero(keys[1:] == keys[:-1])
        for left, right in zip(rows[same].tolist(), rows[same + 1].tolist(), strict=True):
            self.join(left, right)
