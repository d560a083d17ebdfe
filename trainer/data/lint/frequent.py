"""Count the most frequent values of a stream in bounded memory."""

from __future__ import annotations

from collections import Counter


class Frequent:
    """Counts values. Counts are exact up to `limit` different values, then too small by at most `error`.

    Source: Manku and Motwani 2002, "Approximate frequency counts over data streams" (lossy counting). Here a full
    table is pruned.

    Example:
        >>> table = Frequent(limit=2)
        >>> for value in "aaabc":
        ...     table.add(value)
        >>> table.counts, table.error
        (Counter({'a': 2}), 1)
    """

    def __init__(self, limit: int = 20_000) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self.total = 0
        self.error = 0
        """Largest shortfall of a count, and largest count of a value that is pruned."""

    def add(self, value: str) -> None:
        """Count one value."""
        self.total += 1
        self.counts[value] += 1
        while len(self.counts) > self.limit:
            self.error += 1
            self.counts = Counter({value: count - 1 for value, count in self.counts.items() if count > 1})

    @property
    def is_exact(self) -> bool:
        """Tell whether nothing is pruned."""
        return self.error == 0

    def most_common(self, number: int | None = None) -> list[tuple[str, int]]:
        """Return (value, count), the most frequent first, equals by name, so that the order of rows does not matter."""
        return by_count(self.counts)[:number]

    def top_share(self) -> float:
        """Return the share of the most frequent value; 0 for an empty table."""
        return max(self.counts.values(), default=0) / self.total if self.total else 0.0


def by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return (value, count), the most frequent first, equals by name.

    Example:
        >>> by_count(Counter("abb" "c"))
        [('b', 2), ('a', 1), ('c', 1)]
    """
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
