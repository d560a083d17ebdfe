"""Seeded bootstrap over clusters: whole clusters are drawn, with all their rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from trainer.scoring.clusters import Floats, Index

RESAMPLES = 2000
CHUNK = 1_000_000  # drawn clusters held at a time: 8 MB


def ratio_bounds(sums: Floats, index: Index, tail: float, seed: int) -> tuple[float | None, float | None]:
    """Return bounds of a sum of ratios, each exceeded with probability `tail`; None for a single cluster.

    Studentised: the percentiles of plain resamples are too narrow below a hundred clusters and shifted for skewed
    values; those of (resample - value) / (standard error of the resample) are neither. They are kept at least as wide
    as Student's t, which symmetric differences need.

    Args:
        sums: (rows, ratios, 2) numerators and denominators; the value is sum over ratios of total / total.
        index: Cluster of each row.
        tail: Probability beyond each bound.
        seed: Of the resamples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; standard errors by
        linearisation, Cochran, Sampling Techniques, 1977, section 6.3.
    """
    flat = sums.reshape(len(sums), -1)
    clusters = int(index.max()) + 1
    table: Floats = np.stack([np.bincount(index, weights=column, minlength=clusters) for column in flat.T], axis=1)
    value, error = (float(found[0]) for found in _estimates(np.ones((1, clusters)), table))
    if clusters < 2:
        return None, None
    if error <= 1e-12 * max(1.0, abs(value)):
        return value, value
    pivots = []
    for weights in _draws(clusters, seed):
        values, errors = _estimates(weights, table)
        # a resample of equal clusters has no error of its own
        pivots.append((values - value) / np.where(errors > 0.05 * error, errors, error))
    low, high = np.quantile(np.concatenate(pivots), [tail, 1 - tail])
    student = float(stdtrit(clusters - 1, 1 - tail))
    low, high = min(float(low), -student), max(float(high), student)
    return value - high * error, value - low * error


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


def _estimates(weights: Floats, table: Floats) -> tuple[Floats, Floats]:
    """Return value and standard error of each (draws, clusters) row of weights; table: (clusters, 2 * ratios)."""
    draws, clusters = weights.shape
    width = table.shape[1]
    totals = weights @ table
    tops, bottoms = totals[:, 0::2], totals[:, 1::2]
    known = bottoms != 0
    safe = np.where(known, bottoms, 1.0)
    ratios = np.where(known, tops / safe, 0.0)
    slopes = np.empty((draws, width))  # of the linearised value with regard to each column
    slopes[:, 0::2], slopes[:, 1::2] = known / safe, -ratios / safe
    products = (table[:, :, None] * table[:, None, :]).reshape(clusters, -1)
    squares = (weights @ products).reshape(draws, width, width)
    variance = np.einsum("di,dij,dj->d", slopes, squares, slopes) * clusters / max(clusters - 1, 1)
    return ratios.sum(1), np.sqrt(np.maximum(variance, 0.0))


def _draws(clusters: int, seed: int, rows: int = 0) -> Iterator[Floats]:
    """Yield (draws, clusters) counts of how often each cluster was drawn, RESAMPLES in all."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // max(clusters, rows))
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        picks = generator.integers(0, clusters, size=(count, clusters)) + np.arange(count)[:, None] * clusters
        yield np.bincount(picks.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float64)
