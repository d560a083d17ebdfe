"""Values with 95 % intervals, and paired comparisons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trainer.scoring.likelihood import Floats

Z = 1.959963984540054  # 97.5 % point of the normal distribution
RESAMPLES = 2000
Score = dict[str, float | int]


def proportion(marks: Floats) -> Score:
    """Return a share with its Wilson interval (https://doi.org/10.1080/01621459.1927.10502953)."""
    n = len(marks)
    p = float(np.mean(marks))
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return {"value": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": n}


def ratio(totals: Floats, counts: Floats, seed: int) -> Score:
    """Return sum(totals) / sum(counts) with a seeded bootstrap over rows."""
    picks = _resamples(len(totals), seed)
    samples = totals[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(samples, [0.025, 0.975])
    return {"value": float(totals.sum() / counts.sum()), "low": float(low), "high": float(high), "n": len(totals)}


def median(values: Floats, seed: int) -> Score:
    """Return the median with a seeded bootstrap."""
    low, high = np.quantile(np.median(values[_resamples(len(values), seed)], axis=1), [0.025, 0.975])
    return {"value": float(np.median(values)), "low": float(low), "high": float(high), "n": len(values)}


def paired_difference(first: Floats, second: Floats, seed: int) -> dict[str, Any]:
    """Return mean(first - second) over the same rows, with a seeded paired bootstrap."""
    change = first - second
    low, high = np.quantile(change[_resamples(len(change), seed)].mean(1), [0.025, 0.975])
    return {"difference": float(change.mean()), "low": float(low), "high": float(high), "n": len(change)}


def paired_ratio_difference(first: Floats, second: Floats, counts: Floats, seed: int) -> dict[str, Any]:
    """Return the difference of two ratios over the same rows, with a seeded paired bootstrap."""
    picks = _resamples(len(counts), seed)
    change = (first - second)[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(change, [0.025, 0.975])
    value = float((first - second).sum() / counts.sum())
    return {"difference": value, "low": float(low), "high": float(high), "n": len(counts)}


def mcnemar(first: Floats, second: Floats) -> float:
    """Return the exact two-sided p-value that two arms are right equally often (https://doi.org/10.1007/BF02295996)."""
    wins, losses = int((first > second).sum()), int((first < second).sum())
    n, k = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)


def _resamples(n: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
