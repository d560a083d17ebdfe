"""Rows that belong together count for less than as many rows of their own: how much less."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

Floats = np.ndarray[Any, np.dtype[np.float64]]
Index = np.ndarray[Any, np.dtype[np.int64]]
Groups = Sequence[Hashable] | None
"""One key a row; rows of the same key were not drawn independently. None: every row for itself."""


def cluster_index(groups: Groups, n: int) -> Index:
    """Return the cluster of each row as 0, 1, 2...

    Raises:
        ValueError: There is not one group for each row.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} rows")
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(group, len(first)) for group in groups], dtype=np.int64)


@dataclass(frozen=True)
class Effective:
    """How much a set of rows is worth."""

    rows: float
    """Independent rows that would give a mean as exact."""
    freedom: float
    """Degrees of freedom of its standard error; infinite for independent marks: their mean tells their variance."""

    def critical(self, tail: float) -> float:
        """Return the point that a standardised mean exceeds with probability `tail`."""
        return -float(ndtri(tail)) if math.isinf(self.freedom) else float(stdtrit(self.freedom, 1 - tail))


def effective(values: Floats, share: float, index: Index) -> Effective:
    """Return how much rows are worth when rows of the same cluster may be alike.

    The design effect compares the variance between clusters (delete-one-cluster, as sandwich estimators undershoot
    where clusters differ in size) with the variance of the rows. Few clusters with the rarer outcome show too little
    of it, so its excess over 1 is raised by one part in their expected number. Only that excess is estimated from
    clusters, and it alone takes degrees of freedom. Rows that are all alike cannot show it at all: each cluster then
    counts as if its rows were one.

    Args:
        values: One value a row.
        share: Share of the rarer outcome; it says how many clusters hold the evidence.
        index: Cluster of each row, as from `cluster_index`.

    Source: Kish, Survey Sampling, 1965 (design effect); Bell and McCaffrey, Survey Methodology 28, 2002 (variance);
        Satterthwaite, Biometrics Bulletin 2, 1946 (degrees of freedom). The raised excess was chosen by simulation:
        scripts/bench/statistics_coverage.py.
    """
    n = len(values)
    sizes = np.bincount(index).astype(np.float64)
    if len(sizes) == n:
        return Effective(float(n), math.inf)
    fewest = n * n / float((sizes**2).sum())
    rows_variance = float(values.var())
    if rows_variance <= 1e-12 or share <= 0 or len(sizes) < 2:
        return Effective(fewest, math.inf)
    residuals = np.bincount(index, weights=values - values.mean()) / (1 - sizes / n)
    variance = (len(sizes) - 1) / len(sizes) * float((residuals**2).sum()) / n**2
    excess = max(variance * n / rows_variance, 1.0) - 1
    effect = 1 + excess * (1 + 1 / (share * fewest))
    freedom = (len(sizes) - 1) * (effect / (effect - 1)) ** 2 if effect > 1.001 else math.inf
    return Effective(max(n / effect, min(fewest, float(len(sizes)))), freedom)
