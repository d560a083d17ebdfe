"""Seeded bootstrap over clusters: whole clusters are drawn, with all their rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from trainer.scoring.statistics.clusters import Floats, Index

RESAMPLES = 2000
CHUNK = 1_000_000  # drawn clusters held at a time: 8 MB
REACH = 25.0
"""How far an unseen value may lie beyond the largest of n, in distances from their middle to it: REACH / n."""
MAX_SKEW = 3.0
"""Most that skewness adds to it; also where the other side shows no spread at all."""
Bounds = tuple[float | None, float | None]


def ratio_bounds(
    sums: Floats, index: Index, tail: float, seed: int, *, limits: Bounds = (None, None), unseen: float = 0.5
) -> Bounds:
    """Return bounds of a sum of ratios, each exceeded with probability `tail`; None for what the rows cannot bound.

    The outer one of two bounds on either side. The studentised bootstrap is right where the rows show how values vary;
    `_with_unseen` is what is left where they do not: equal rows, few rows, a tail that no row shows. A single cluster,
    and equal rows of values that have no limit, have no bounds.

    Args:
        sums: (rows, ratios, 2) numerators and denominators; the value is sum over ratios of total / total.
        index: Cluster of each row.
        tail: Probability beyond each bound.
        seed: Of the resamples.
        limits: Smallest and largest possible value of a row, where there are such.
        unseen: Clusters that are thought to be missing: 1 for bounds that must hold, 0.5 for an interval.
    """
    flat = sums.reshape(len(sums), -1)
    clusters = int(index.max()) + 1
    if clusters < 2:
        return None, None
    table: Floats = np.stack([np.bincount(index, weights=column, minlength=clusters) for column in flat.T], axis=1)
    values, errors, slopes = _estimates(np.ones((1, clusters)), table)
    value, error = float(values[0]), float(errors[0])
    points = value + clusters * (table @ slopes[0])  # (clusters,) their mean is the value
    low, high = _with_unseen(points, limits, tail, seed, unseen)
    if error > 1e-12 * max(1.0, abs(value)):
        studentised = _studentised(table, value, error, tail, seed)
        low, high = min(low, studentised[0]), max(high, studentised[1])
    return spread(low, high)


def spread(low: float, high: float) -> Bounds:
    """Return bounds, or none where they coincide: rows that do not differ tell nothing about how rows differ."""
    return (None, None) if high - low <= 1e-12 * max(1.0, abs(low)) else (low, high)


def _studentised(table: Floats, value: float, error: float, tail: float, seed: int) -> tuple[float, float]:
    """Return bounds by the studentised bootstrap, at least as wide as Student's t.

    The percentiles of plain resamples are too narrow below a hundred clusters and shifted for skewed values; those of
    (resample - value) / (standard error of the resample) are neither. Symmetric differences need Student's t.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; standard errors by
        linearisation, Cochran, Sampling Techniques, 1977, section 6.3.
    """
    pivots = []
    for weights in _draws(len(table), seed):
        resampled, errors, _ = _estimates(weights, table)
        # a resample of equal clusters has no error of its own
        pivots.append((resampled - value) / np.where(errors > 0.05 * error, errors, error))
    low, high = np.quantile(np.concatenate(pivots), [tail, 1 - tail])
    student = float(stdtrit(len(table) - 1, 1 - tail))
    low, high = min(float(low), -student), max(float(high), student)
    return value - high * error, value - low * error


def _with_unseen(points: Floats, limits: Bounds, tail: float, seed: int, unseen: float) -> tuple[float, float]:
    """Return bounds of the mean of points of which the most extreme one was not seen.

    The Bayesian bootstrap with a further point: at the limit of the values, or, where they have none, beyond the last
    one seen. With 0 and 1 as limits this is Clopper and Pearson's bound for marks of 0 and 1, and as sharp for others.

    Source: Gaffke, Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
        variable, Mathematical Methods of Statistics 14, 2005; Learned-Miller and Thomas, arXiv 1905.06208.
    """
    below = -_beyond(-points) if limits[0] is None else min(limits[0], float(points.min()))
    above = _beyond(points) if limits[1] is None else max(limits[1], float(points.max()))
    lows, highs = [], []
    generator = np.random.default_rng(seed)
    for count in _counts(len(points)):
        weights = generator.standard_exponential((count, len(points)))
        extra = generator.gamma(unseen, 1.0, count)
        totals, summed = weights.sum(1) + extra, weights @ points
        lows.append((summed + extra * below) / totals)
        highs.append((summed + extra * above) / totals)
    return float(np.quantile(np.concatenate(lows), tail)), float(np.quantile(np.concatenate(highs), 1 - tail))


def _beyond(points: Floats) -> float:
    """Return where a larger point than all seen may lie: the further out, the fewer and the more skewed they are.

    Chosen by simulation, so that bounds of lognormal means hold: scripts/bench/statistics_coverage.py.
    """
    middle, largest = float(np.median(points)), float(points.max())
    reach, other = largest - middle, middle - float(points.min())
    skew = min(max(reach / other, 1.0), MAX_SKEW) if other > 0 else MAX_SKEW
    return largest + REACH / len(points) * skew * reach


def quantile_bounds(columns: Floats, signs: Floats, at: float, index: Index, tail: float, seed: int) -> Floats:
    """Return the (2,) bounds of sum(sign * quantile of column), each exceeded with probability `tail`.

    Args:
        columns: (rows, columns) values; all columns are resampled together.
        signs: (columns,) weights of the quantiles.
        at: The quantile, 0.5 for the median.
        index: Cluster of each row.
        tail: Probability beyond each bound.
        seed: Of the resamples.
    """
    clusters = int(index.max()) + 1
    order = np.argsort(columns, axis=0, kind="stable")
    found = []
    for weights in _draws(clusters, seed, rows=len(columns)):
        total = np.zeros(len(weights))
        for column, sign in enumerate(signs):
            rows = order[:, column]
            reached = np.cumsum(weights[:, index[rows]], axis=1)
            picks = (reached < at * reached[:, -1:]).sum(1)
            total += sign * columns[rows[picks], column]
        found.append(total)
    return np.quantile(np.concatenate(found), [tail, 1 - tail])


def _estimates(weights: Floats, table: Floats) -> tuple[Floats, Floats, Floats]:
    """Return value, standard error and slopes (draws, 2 * ratios) of each (draws, clusters) row of weights.

    `table` is (clusters, 2 * ratios); slopes are those of the linearised value with regard to each of its columns.
    """
    draws, clusters = weights.shape
    width = table.shape[1]
    totals = weights @ table
    tops, bottoms = totals[:, 0::2], totals[:, 1::2]
    known = bottoms != 0
    safe = np.where(known, bottoms, 1.0)
    ratios = np.where(known, tops / safe, 0.0)
    slopes = np.empty((draws, width))
    slopes[:, 0::2], slopes[:, 1::2] = known / safe, -ratios / safe
    products = (table[:, :, None] * table[:, None, :]).reshape(clusters, -1)
    squares = (weights @ products).reshape(draws, width, width)
    variance = np.einsum("di,dij,dj->d", slopes, squares, slopes) * clusters / max(clusters - 1, 1)
    return ratios.sum(1), np.sqrt(np.maximum(variance, 0.0)), slopes


def _draws(clusters: int, seed: int, rows: int = 0) -> Iterator[Floats]:
    """Yield (draws, clusters) counts of how often each cluster was drawn, RESAMPLES in all."""
    generator = np.random.default_rng(seed)
    for count in _counts(max(clusters, rows)):
        picks = generator.integers(0, clusters, size=(count, clusters)) + np.arange(count)[:, None] * clusters
        yield np.bincount(picks.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float64)


def _counts(width: int) -> Iterator[int]:
    """Yield how many resamples of a width to draw at a time, RESAMPLES in all."""
    step = max(1, CHUNK // width)
    for start in range(0, RESAMPLES, step):
        yield min(step, RESAMPLES - start)
