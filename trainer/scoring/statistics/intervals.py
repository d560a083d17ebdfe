"""Values with intervals: shares, means, ratios, F1 and quantiles, honest about rows that belong together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import bdtr, betaincinv, ndtri

from trainer.scoring.statistics.bootstrap import Bounds, quantile_bounds, ratio_bounds, spread
from trainer.scoring.statistics.clusters import Floats, Groups, cluster_index, effective

Score = dict[str, Any]
"""value, low, high, n (rows). A bound is None where so few rows cannot give one; one row, or one group, gives none."""

INTERVAL, BOUND = 0.5, 1.0
"""Unseen rows that an interval in a table, and a bound that a gate rests on, allow for."""


def proportion(marks: Floats, groups: Groups = None, *, confidence: float = 0.95) -> Score:
    """Return a share with its Wilson interval.

    Clusters enter through `clusters.effective`: fewer effective rows, and Student's t.

    Args:
        marks: One mark in 0..1 a row.
        groups: One key a row, where rows belong together.
        confidence: Of the two-sided interval.

    Source: Wilson, https://doi.org/10.1080/01621459.1927.10502953; with effective rows: Dean and Pagano,
        https://doi.org/10.1093/jssam/smv024.
    """
    index = cluster_index(groups, len(marks))
    p = float(np.mean(marks))
    if int(index.max()) == 0:
        return _score(p, None, None, len(marks))
    worth = effective(marks, min(p, 1 - p), index)
    n, z = worth.rows, worth.critical((1 - confidence) / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # rounding must not leave the value itself outside
    return _score(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), len(marks))


def exact_bounds(marks: Floats, groups: Groups = None, *, confidence: float = 0.95) -> Bounds:
    """Return the lower and the upper one-sided bound of a share; each holds with at least this confidence.

    This is what a gate uses: 59 marks of 1 give a lower bound of 0.95, as `rows_needed` says.

    Source: Clopper and Pearson, https://doi.org/10.1093/biomet/26.4.404; with effective rows: Korn and Graubard,
        Survey Methodology 24, 1998.
    """
    p, index = float(np.mean(marks)), cluster_index(groups, len(marks))
    if int(index.max()) == 0:
        return None, None
    worth = effective(marks, min(p, 1 - p), index)
    # the same widening as Student's t gives a mean
    n = worth.rows * (float(ndtri(confidence)) / worth.critical(1 - confidence)) ** 2
    right, wrong, tail = p * n, (1 - p) * n, 1 - confidence
    low = float(betaincinv(right, wrong + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, confidence)) if wrong > 0 else 1.0
    return low, high


def mean(
    values: Floats,
    seed: int,
    groups: Groups = None,
    *,
    confidence: float = 0.95,
    unseen: float = INTERVAL,
    bounded: bool | None = None,
) -> Score:
    """Return the mean with a seeded bootstrap by cluster; see `ratio`."""
    ones = np.ones(len(values))
    return ratio(values, ones, seed, groups, confidence=confidence, unseen=unseen, bounded=bounded)


def ratio(
    totals: Floats,
    counts: Floats,
    seed: int,
    groups: Groups = None,
    *,
    confidence: float = 0.95,
    unseen: float = INTERVAL,
    bounded: bool | None = None,
) -> Score:
    """Return sum(totals) / sum(counts) with a seeded bootstrap by cluster; what lies in 0..1 stays in it.

    Args:
        totals: One a row.
        counts: One a row.
        seed: Of the resamples.
        groups: One key a row, where rows belong together.
        confidence: Of the two-sided interval.
        unseen: Rows that the sample is thought to lack, INTERVAL or BOUND: equal rows do not make an interval of no
            width.
        bounded: Each total lies between 0 and its count by its nature; None: as `is_share` sees it.
    """
    bottom = float(counts.sum())
    value = float(totals.sum()) / bottom if bottom else 0.0
    index = cluster_index(groups, len(totals))
    share = is_share(totals, counts) if bounded is None else bounded
    limits: Bounds = (0.0, 1.0) if share else (None, None)
    parts = np.stack([totals, counts], -1)[:, None]
    low, high = ratio_bounds(parts, index, (1 - confidence) / 2, seed, limits=limits, unseen=unseen)
    if low is not None and high is not None and share:
        low, high = max(0.0, low), min(1.0, high)
    return _score(value, low, high, len(totals))


def micro_f1(
    counts: Floats, seed: int, groups: Groups = None, *, confidence: float = 0.95, unseen: float = INTERVAL
) -> Score:
    """Return F1 over all rows together, 2 tp / (2 tp + fp + fn), with a seeded bootstrap by cluster.

    Args:
        counts: (rows, 3) true positives, false positives, false negatives.
        seed: Of the resamples.
        groups: One key a row, where rows belong together.
        confidence: Of the two-sided interval.
        unseen: As of `ratio`.
    """
    return ratio(*f1_parts(counts), seed, groups, confidence=confidence, unseen=unseen, bounded=True)


def median(values: Floats, seed: int, groups: Groups = None, *, confidence: float = 0.95) -> Score:
    """Return the median with a seeded bootstrap by cluster."""
    return quantile(values, 0.5, seed, groups, confidence=confidence)


def quantile(values: Floats, at: float, seed: int, groups: Groups = None, *, confidence: float = 0.95) -> Score:
    """Return a quantile with a seeded bootstrap by cluster.

    Resamples only repeat values that were seen, so each bound moves one value outwards: without it 95 % intervals of
    the 95th percentile of 80 values hold it 91 % of the time. A bound is None where even the smallest or largest
    value does not bound it: 10 values say nothing about how high the 95th percentile may be, since all ten lie below
    it in 60 % of cases.
    """
    index = cluster_index(groups, len(values))
    tail, clusters, ordered = (1 - confidence) / 2, int(index.max()) + 1, np.sort(values)
    low, high = quantile_bounds(values[:, None], np.ones(1), at, index, tail, seed)
    below = max(int(np.searchsorted(ordered, low, "left")) - 1, 0)
    above = min(int(np.searchsorted(ordered, high, "right")), len(values) - 1)
    bounds = spread(float(ordered[below]), float(ordered[above]))
    return {
        "value": float(np.quantile(values, at)),
        "low": bounds[0] if (1 - at) ** clusters <= tail else None,
        "high": bounds[1] if at**clusters <= tail else None,
        "n": len(values),
    }


def f1_parts(counts: Floats) -> tuple[Floats, Floats]:
    """Return numerator and denominator of F1 for each row of (rows, 3) tp, fp, fn."""
    return 2 * counts[:, 0], 2 * counts[:, 0] + counts[:, 1] + counts[:, 2]


def is_share(totals: Floats, counts: Floats) -> bool:
    """Tell whether each total lies between 0 and its count, and one lies at either end.

    Small values of something that has no limit lie between 0 and 1 too, and seldom at an end.
    """
    inside = bool((totals >= 0).all() and (totals <= counts).all())
    return inside and bool((totals == 0).any() or (totals == counts).any())


def rows_needed(min_rate: float, failures: int = 0, *, confidence: float = 0.95) -> int:
    """Return the fewest rows with so many failures that prove a share of at least `min_rate`.

    Example: 95 % at 95 % confidence: 59 rows without a failure, 93 with one, 124 with two.

    Raises:
        ValueError: `min_rate` is not between 0 and 1.
    """
    if not 0 < min_rate < 1:
        raise ValueError(f"min_rate must lie between 0 and 1, not {min_rate}")
    low, high = failures, failures + 1

    def proves(n: int) -> bool:
        return bool(bdtr(failures, n, 1 - min_rate) <= 1 - confidence)

    while not proves(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


def holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected for as many comparisons as there are.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _score(value: float, low: float | None, high: float | None, n: int) -> Score:
    return {"value": value, "low": low, "high": high, "n": n}
