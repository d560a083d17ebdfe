"""Estimate shares, means, ratios, F1 and quantiles with intervals that know of clusters."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtr, betaincinv, ndtri

from trainer.scoring.statistics.bootstrap import quantile_bounds, ratio_bounds, spread
from trainer.scoring.statistics.clusters import effective
from trainer.scoring.statistics.inference import Bounds, Floats, Inference
from trainer.shapes.scores import Score

DEFAULT = Inference()


def proportion(marks: Floats, inference: Inference = DEFAULT) -> Score:
    """Return a share with its Wilson interval.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half width = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n).
    Clusters enter through `clusters.effective`: fewer effective rows n, and Student's t as z.

    Args:
        marks: (rows,) marks in 0..1.
        inference: Groups and confidence.

    Source: Wilson, https://doi.org/10.1080/01621459.1927.10502953; with effective rows: Dean and Pagano,
        https://doi.org/10.1093/jssam/smv024.

    Example: 8 of 10 right; the interval is wider if the rows are five pairs of equal ones.
        >>> marks = np.array([1.0] * 8 + [0.0] * 2)
        >>> alone, pairs = proportion(marks), proportion(marks, Inference(groups=[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]))
        >>> [round(end, 2) for end in (alone["low"], alone["high"], pairs["low"], pairs["high"])]
        [0.49, 0.94, 0.31, 0.97]
    """
    index = inference.clusters(len(marks))
    p = float(np.mean(marks))
    if int(index.max()) == 0:
        return {"value": p, "low": None, "high": None, "n": len(marks)}
    worth = effective(marks, min(p, 1 - p), index)
    n, z = worth.rows, worth.critical(inference.tail)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # rounding must not leave the value itself outside
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return {"value": p, "low": low, "high": high, "n": len(marks)}


def exact_bounds(marks: Floats, inference: Inference = DEFAULT) -> Bounds:
    """Return the lower and the upper one-sided bound of a share; each holds with at least the confidence.

    Gates use this: k of n right give the lower bound B(1 - confidence; k, n - k + 1), a quantile of the beta
    distribution.

    Source: Clopper and Pearson, https://doi.org/10.1093/biomet/26.4.404; with effective rows: Korn and Graubard,
        Survey Methodology 24, 1998.

    Example: 59 right answers prove 95 %, as `rows_needed` says.
        >>> low, high = exact_bounds(np.ones(59))
        >>> round(low, 3), high
        (0.95, 1.0)
    """
    p, index = float(np.mean(marks)), inference.clusters(len(marks))
    if int(index.max()) == 0:
        return None, None
    confidence = inference.confidence
    worth = effective(marks, min(p, 1 - p), index)
    # the same widening as Student's t gives a mean
    n = worth.rows * (float(ndtri(confidence)) / worth.critical(1 - confidence)) ** 2
    right, wrong, tail = p * n, (1 - p) * n, 1 - confidence
    low = float(betaincinv(right, wrong + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, confidence)) if wrong > 0 else 1.0
    return low, high


def mean(values: Floats, inference: Inference = DEFAULT) -> Score:
    """Return the mean with a seeded bootstrap by cluster; see `ratio`."""
    return ratio(values, np.ones(len(values)), inference)


def ratio(totals: Floats, counts: Floats, inference: Inference = DEFAULT) -> Score:
    """Return sum(totals) / sum(counts) with a seeded bootstrap by cluster; what lies in 0..1 stays in it.

    Args:
        totals: (rows,) numerators.
        counts: (rows,) denominators.
        inference: Groups, seed, confidence, unseen rows, and whether totals lie between 0 and their counts.
    """
    bottom = float(counts.sum())
    value = float(totals.sum()) / bottom if bottom else 0.0
    share = is_share(totals, counts) if inference.bounded is None else inference.bounded
    limits: Bounds = (0.0, 1.0) if share else (None, None)
    low, high = ratio_bounds(np.stack([totals, counts], -1)[:, None], inference, limits)
    if low is not None and high is not None and share:
        low, high = max(0.0, low), min(1.0, high)
    return {"value": value, "low": low, "high": high, "n": len(totals)}


def quantile(values: Floats, level: float, inference: Inference = DEFAULT) -> Score:
    """Return a quantile with a seeded bootstrap by cluster.

    Resamples only repeat seen values, so each bound moves one value outwards: without it 95 % intervals of the 95th
    percentile of 80 values hold it 91 % of the time. A bound is None where even the smallest or largest value does not
    bound the quantile.

    Example: 10 values do not tell how high the 95th percentile may be: all of them lie below it in 60 % of cases.
        >>> score = quantile(np.arange(10.0), 0.95)
        >>> round(score["value"], 2), score["high"]
        (8.55, None)
    """
    clusters, ordered = int(inference.clusters(len(values)).max()) + 1, np.sort(values)
    low, high = quantile_bounds(values[:, None], np.ones(1), level, inference)
    # the next smaller value that was seen
    below = max(int(np.searchsorted(ordered, low, "left")) - 1, 0)
    above = min(int(np.searchsorted(ordered, high, "right")), len(values) - 1)
    bounds = spread(float(ordered[below]), float(ordered[above]))
    return {
        "value": float(np.quantile(values, level)),
        # all clusters lie above (below) the quantile with this probability
        "low": bounds[0] if (1 - level) ** clusters <= inference.tail else None,
        "high": bounds[1] if level**clusters <= inference.tail else None,
        "n": len(values),
    }


def f1_parts(counts: Floats) -> tuple[Floats, Floats]:
    """Return numerator 2 tp and denominator 2 tp + fp + fn of F1 for each row of (rows, 3) tp, fp, fn.

    Example: one right field, one extra, none missing.
        >>> top, bottom = f1_parts(np.array([[1.0, 1.0, 0.0]]))
        >>> float(top[0] / bottom[0])
        0.6666666666666666
    """
    return 2 * counts[:, 0], 2 * counts[:, 0] + counts[:, 1] + counts[:, 2]


def is_share(totals: Floats, counts: Floats) -> bool:
    """Tell whether each total lies between 0 and its count, and one lies at either end.

    Small values without a limit lie between 0 and 1 too, but seldom at an end.
    """
    inside = bool((totals >= 0).all() and (totals <= counts).all())
    return inside and bool((totals == 0).any() or (totals == counts).any())


def rows_needed(min_rate: float, failures: int = 0, *, confidence: float = 0.95) -> int:
    """Return the fewest rows with so many failures that prove a share of at least `min_rate`.

    They are the smallest n with P(at most `failures` failures in n rows | `min_rate`) <= 1 - confidence.

    Raises:
        ValueError: `min_rate` is not between 0 and 1.

    Example: 95 % takes 59 rows without a failure, 93 with one, 124 with two.
        >>> [rows_needed(0.95, failures) for failures in (0, 1, 2)]
        [59, 93, 124]
    """
    if not 0 < min_rate < 1:
        raise ValueError(f"min_rate must lie between 0 and 1, not {min_rate}")
    low, high = failures, failures + 1

    def proves(n: int) -> bool:
        return bool(bdtr(failures, n, 1 - min_rate) <= 1 - confidence)

    # P falls with n: double until it proves, then bisect
    while not proves(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high
