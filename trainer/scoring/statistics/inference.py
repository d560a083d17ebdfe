"""State how rows were drawn and how sure an interval must be."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Groups = Sequence[Hashable] | None
"""One key per row; rows of one key were not drawn independently. None: every row is independent."""
Bounds = tuple[float | None, float | None]
"""(low, high); None where so few rows give no bound."""

INTERVAL, BOUND = 0.5, 1.0
"""Unseen rows that an interval of a table, and a bound of a gate, allow for."""


@dataclass(frozen=True)
class Inference:
    """How rows were drawn and how sure an interval must be.

    Example:
        >>> Inference(groups=["a", "b", "a"]).clusters(3).tolist()
        [0, 1, 0]
        >>> round(Inference(confidence=0.9).tail, 3)
        0.05
    """

    groups: Groups = None
    seed: int = 0
    """Of the resamples."""
    confidence: float = 0.95
    """Of a two-sided interval, or of each one-sided bound."""
    unseen: float = INTERVAL
    """Rows that the sample may lack: with them, equal rows do not give an interval without width."""
    bounded: bool | None = None
    """Each row lies between 0 and 1 (a ratio: between 0 and its count) by its nature; None: tell by `is_share`."""

    @property
    def tail(self) -> float:
        """Return the probability beyond each end of a two-sided interval."""
        return (1 - self.confidence) / 2

    def clusters(self, num_rows: int) -> Index:
        """Return (num_rows,): the cluster of each row as 0, 1, 2...

        Raises:
            ValueError: There is not one group for each row.
        """
        if self.groups is None:
            return np.arange(num_rows)
        if len(self.groups) != num_rows:
            raise ValueError(f"{len(self.groups)} groups for {num_rows} rows")
        numbers: dict[Hashable, int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in self.groups], dtype=np.int64)
