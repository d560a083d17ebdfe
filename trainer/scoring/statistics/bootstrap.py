"""Bound statistics by a seeded bootstrap: whole clusters are drawn, with all their rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from trainer.scoring.statistics.inference import Bounds, Floats, Inference

RESAMPLES = 2000
CHUNK = 1_000_000  # clusters drawn at a time: 8 MB
REACH = 25.0
"""How far an unseen value may lie beyond the largest of n, in distances from the median to it: REACH / n."""
MAX_SKEW = 3.0
"""Most that skewness adds to it; also where the other side shows no spread."""


def ratio_bounds(sums: Floats, inference: Inference, limits: Bounds = (None, None)) -> Bounds:
    """Return two-sided bounds of a sum of ratios; None for a bound that the rows cannot give.

    On either side the outer one of two bounds counts. The studentised bootstrap is right where the rows show how
    values vary. `_with_unseen` serves where they do not: equal rows, few rows, a tail that no row shows. A single
    cluster has no bounds, and neither have equal rows of values without limits.

    Args:
        sums: (rows, ratios, 2) numerators and denominators; the value is the sum over ratios of total / total.
        inference: Groups, seed, confidence, unseen rows.
        limits: Smallest and largest possible value of a row; None where there is none.
    """
    flat = sums.reshape(len(sums), -1)
    index = inference.clusters(len(flat))
    clusters = int(index.max()) + 1
    if clusters < 2:
        return None, None
    # (clusters, 2 * ratios): numerator and denominator of each ratio side by side
    table: Floats = np.stack([np.bincount(index, weights=column, minlength=clusters) for column in flat.T], axis=1)
    values, errors, slopes = _estimates(np.ones((1, clusters)), table)
    value, error = float(values[0]), float(errors[0])
    points = value + clusters * (table @ slopes[0])  # (clusters,) linearised: their mean is the value
    low, high = _with_unseen(points, limits, inference)
    if error > 1e-12 * max(1.0, abs(value)):
        studentised = _studentised(table, value, error, inference)
        low, high = min(low, studentised[0]), max(high, studentised[1])
    return spread(low, high)


def spread(low: float, high: float) -> Bounds:
    """Return bounds, or none where they coincide: equal rows do not tell how rows differ."""
    return (None, None) if high - low <= 1e-12 * max(1.0, abs(low)) else (low, high)


def _studentised(table: Floats, value: float, error: float, inference: Inference) -> tuple[float, float]:
    """Return bounds by the studentised bootstrap, at least as wide as Student's t.

    Percentiles of plain resamples are too narrow below a hundred clusters and shifted for skewed values; those of
    (resample - value) / (standard error of the resample) are neither. Symmetric differences need Student's t.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; standard errors by
        linearisation, Cochran, Sampling Techniques, 1977, section 6.3.
    """
    pivots = []
    for weights in _draws(len(table), inference.seed):
        resampled, errors, _ = _estimates(weights, table)
        # a resample of equal clusters has no error of its own
        pivots.append((resampled - value) / np.where(errors > 0.05 * error, errors, error))
    tail = inference.tail
    low, high = np.quantile(np.concatenate(pivots), [tail, 1 - tail])
    student = float(stdtrit(len(table) - 1, 1 - tail))
    low, high = min(float(low), -student), max(float(high), student)
    return value - high * error, value - low * error  # a high pivot means that the true value lies low


def _with_unseen(points: Floats, limits: Bounds, inference: Inference) -> tuple[float, float]:
    """Return bounds of the mean of points whose most extreme one was not seen.

    The Bayesian bootstrap with a further point: at the limit of the values or, without a limit, beyond the outermost
    point. With 0 and 1 as limits this is Clopper and Pearson's bound for marks of 0 and 1, and as sharp for others.

    Source: Gaffke, Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
        variable, Mathematical Methods of Statistics 14, 2005; Learned-Miller and Thomas, arXiv 1905.06208.
    """
    below = -_beyond(-points) if limits[0] is None else min(limits[0], float(points.min()))
    above = _beyond(points) if limits[1] is None else max(limits[1], float(points.max()))
    lows, highs = [], []
    generator = np.random.default_rng(inference.seed)
    for count in _counts(len(points)):
        # normalised exponential weights are a draw from the Dirichlet distribution
        weights = generator.standard_exponential((count, len(points)))
        extra = generator.gamma(inference.unseen, 1.0, count)
        totals, summed = weights.sum(1) + extra, weights @ points
        lows.append((summed + extra * below) / totals)
        highs.append((summed + extra * above) / totals)
    tail = inference.tail
    return float(np.quantile(np.concatenate(lows), tail)), float(np.quantile(np.concatenate(highs), 1 - tail))


def _beyond(points: Floats) -> float:
    """Return where a larger point than all seen ones may lie: further out for few and for skewed points.

    Chosen by simulation, so that bounds of lognormal means hold: scripts/bench/statistics_coverage.py.

    Example: 25 points between -1 and 1 may miss one at 2.
        >>> _beyond(np.linspace(-1, 1, 25))
        2.0
    """
    median, largest = float(np.median(points)), float(points.max())
    above, below = largest - median, median - float(points.min())
    skew = min(max(above / below, 1.0), MAX_SKEW) if below > 0 else MAX_SKEW
    return largest + REACH / len(points) * skew * above


def quantile_bounds(columns: Floats, signs: Floats, level: float, inference: Inference) -> tuple[float, float]:
    """Return two-sided bounds of sum(sign * quantile of column).

    Args:
        columns: (rows, columns) values; all columns are resampled together.
        signs: (columns,) weights of the quantiles.
        level: The quantile, 0.5 for the median.
        inference: Groups, seed, confidence.
    """
    index = inference.clusters(len(columns))
    order = np.argsort(columns, axis=0, kind="stable")
    totals = []
    for weights in _draws(int(index.max()) + 1, inference.seed, rows=len(columns)):
        total = np.zeros(len(weights))
        for column, sign in enumerate(signs):
            rows = order[:, column]
            reached = np.cumsum(weights[:, index[rows]], axis=1)  # (draws, rows) rows up to each value
            picks = (reached < level * reached[:, -1:]).sum(1)  # first row at which the weighted share reaches `level`
            total += sign * columns[rows[picks], column]
        totals.append(total)
    low, high = np.quantile(np.concatenate(totals), [inference.tail, 1 - inference.tail])
    return float(low), float(high)


def _estimates(weights: Floats, table: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the value, the standard error and the slopes of each resample.

    Args:
        weights: (draws, clusters) how often each cluster was drawn.
        table: (clusters, 2 * ratios) numerators and denominators.

    Returns:
        (draws,) values, (draws,) standard errors, and (draws, 2 * ratios) slopes: the derivatives of the value by the
        columns of the table. For top / bottom they are 1 / bottom and -top / bottom^2.
    """
    draws, clusters = weights.shape
    width = table.shape[1]
    totals = weights @ table  # (draws, 2 * ratios): sums over the drawn clusters
    tops, bottoms = totals[:, 0::2], totals[:, 1::2]  # (draws, ratios) each
    is_defined = bottoms != 0
    divisors = np.where(is_defined, bottoms, 1.0)
    ratios = np.where(is_defined, tops / divisors, 0.0)
    slopes = np.empty((draws, width))
    slopes[:, 0::2], slopes[:, 1::2] = is_defined / divisors, -ratios / divisors
    # (clusters, width * width) outer products, so that one matrix product gives those of every resample
    products = (table[:, :, None] * table[:, None, :]).reshape(clusters, -1)
    squares = (weights @ products).reshape(draws, width, width)
    # delta method: g' S g, with S the sums of squares of a resample (its mean residual is 0), unbiased by k / (k - 1)
    variance = np.einsum("di,dij,dj->d", slopes, squares, slopes) * clusters / max(clusters - 1, 1)
    return ratios.sum(1), np.sqrt(np.maximum(variance, 0.0)), slopes


def _draws(clusters: int, seed: int, rows: int = 0) -> Iterator[Floats]:
    """Yield (draws, clusters) counts of how often each cluster was drawn, RESAMPLES draws in all."""
    generator = np.random.default_rng(seed)
    for count in _counts(max(clusters, rows)):
        # an offset for each draw, so that one bincount counts all of them
        picks = generator.integers(0, clusters, size=(count, clusters)) + np.arange(count)[:, None] * clusters
        yield np.bincount(picks.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float64)


def _counts(width: int) -> Iterator[int]:
    """Yield how many resamples of a width to draw at a time, RESAMPLES in all."""
    step = max(1, CHUNK // width)
    for start in range(0, RESAMPLES, step):
        yield min(step, RESAMPLES - start)
