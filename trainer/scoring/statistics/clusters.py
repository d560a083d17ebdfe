"""Estimate how many independent rows a clustered sample is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from trainer.scoring.statistics.inference import Floats, Index


@dataclass(frozen=True)
class Effective:
    """How much a set of rows is worth."""

    rows: float
    """Independent rows that would give an equally exact mean."""
    freedom: float
    """Degrees of freedom of the standard error; infinite for independent marks: their mean gives their variance."""

    def critical(self, tail: float) -> float:
        """Return the point that a standardised mean exceeds with probability `tail`."""
        return -float(ndtri(tail)) if math.isinf(self.freedom) else float(stdtrit(self.freedom, 1 - tail))


def effective(values: Floats, share: float, index: Index) -> Effective:
    """Return how much rows are worth when rows of one cluster may be alike.

    The design effect is the variance between clusters over the variance of independent rows. The former comes from
    deleting one cluster at a time: sandwich estimators are too small where cluster sizes differ. Few clusters with the
    rarer outcome show too little of the excess over 1, so it is raised by one part in their expected number. Only the
    excess is estimated from clusters, and only it takes degrees of freedom. Rows that are all equal cannot show it:
    each cluster then counts as one row.

    Args:
        values: (rows,) one value per row.
        share: Share of the rarer outcome; it tells how many clusters hold the evidence.
        index: (rows,) cluster of each row, as from `Inference.clusters`.

    Source: Kish, Survey Sampling, 1965 (design effect); Bell and McCaffrey, Survey Methodology 28, 2002 (variance);
        Satterthwaite, Biometrics Bulletin 2, 1946 (degrees of freedom). The raised excess was chosen by simulation:
        scripts/bench/statistics_coverage.py.

    Example: four equal rows in two clusters are worth two rows; clusters that average out cost nothing.
        >>> pairs = np.array([0, 0, 1, 1])
        >>> effective(np.array([1.0, 1, 0, 0]), 0.5, pairs).rows
        2.0
        >>> effective(np.array([1.0, 0, 1, 0]), 0.5, pairs).rows
        4.0
        >>> effective(np.array([1.0, 1, 0, 0]), 0.5, np.arange(4)).rows
        4.0
    """
    n = len(values)
    sizes = np.bincount(index).astype(np.float64)
    if len(sizes) == n:
        return Effective(float(n), math.inf)
    fewest = n * n / float((sizes**2).sum())  # Kish: as if all rows of a cluster were one
    rows_variance = float(values.var())
    if rows_variance <= 1e-12 or share <= 0 or len(sizes) < 2:
        return Effective(fewest, math.inf)
    # delete-one-cluster: the residual of a cluster grows by 1 / (1 - its share of the rows)
    residuals = np.bincount(index, weights=values - values.mean()) / (1 - sizes / n)
    variance = (len(sizes) - 1) / len(sizes) * float((residuals**2).sum()) / n**2
    excess = max(variance * n / rows_variance, 1.0) - 1
    effect = 1 + excess * (1 + 1 / (share * fewest))
    freedom = (len(sizes) - 1) * (effect / (effect - 1)) ** 2 if effect > 1.001 else math.inf
    # never fewer than if each cluster were one row
    return Effective(max(n / effect, min(fewest, float(len(sizes)))), freedom)
