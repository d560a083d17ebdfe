"""The most frequent values of a stream, in bounded memory."""

from __future__ import annotations

from collections import Counter


class Frequent:
    """Counts values; exact while at most `limit` differ, then each count may fall short by `error`.

    Source: Manku and Motwani 2002, "Approximate frequency counts over data streams" (lossy counting), with a table
    that is pruned when it is full.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self.total = 0
        self.error = 0
        """Largest possible shortfall of a count, and largest count of a value that is not held."""

    def add(self, value: str) -> None:
        """Count one value."""
        self.total += 1
        self.counts[value] += 1
        while len(self.counts) > self.limit:
            self._prune()

    def _prune(self) -> None:
        """Take one off every count, as if a whole table of different values were cancelled out."""
        self.error += 1
        self.counts = Counter({value: count - 1 for value, count in self.counts.items() if count > 1})

    @property
    def is_exact(self) -> bool:
        """Tell whether nothing was pruned."""
        return self.error == 0

    def most_common(self, number: int | None = None) -> list[tuple[str, int]]:
        """Return (value, count), most frequent first, equals by name: the order of the rows must not show."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:number]

    def top_share(self) -> float:
        """Return the share of the most frequent value; 0 when nothing was counted."""
        return max(self.counts.values(), default=0) / self.total if self.total else 0.0
