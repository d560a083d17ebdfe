"""Rows whose answer the trained model does not believe: wrong labels, most likely.

N rows, K classes. Source: Northcutt, Jiang and Chuang 2021, "Confident learning", https://arxiv.org/abs/1911.00068.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

MIN_SPREAD = 1e-3
TOLERANCE = 1e-6
"""Rows that are all equally sure reach their own mean, whatever the rounding."""


def unusual_loss(losses: Floats, counts: Floats) -> Floats:
    """Return how far each row's mean loss stands above the median, in robust standard deviations, shape (N,).

    The spread is 1.4826 times the median absolute deviation, which equals the standard deviation of a normal
    distribution and does not grow with the errors that are looked for.

    Args:
        losses: (N,) summed cross-entropy of each row, nats.
        counts: (N,) trained tokens of each row.
    """
    means = losses / np.maximum(counts, 1)
    median = np.median(means)
    spread = 1.4826 * np.median(np.abs(means - median))
    return np.asarray((means - median) / max(float(spread), MIN_SPREAD))


def class_thresholds(confidence: Floats, given: Ints, num_classes: int) -> Floats:
    """Return the mean probability that rows of a class give to that class, shape (K,): what counts as confident.

    Args:
        confidence: (N,) probability of each row's given class.
        given: (N,) class of each row.
        num_classes: K; a class without rows can never be confident.
    """
    rows = np.bincount(given, minlength=num_classes)
    sums = np.bincount(given, weights=confidence, minlength=num_classes)
    return np.where(rows > 0, sums / np.maximum(rows, 1), np.inf)


def least_confident(confidence: Floats, given: Ints, num_classes: int) -> Ints:
    """Return the rows in the order of their confidence, measured by that of their class, the lowest first."""
    return np.argsort(confidence - class_thresholds(confidence, given, num_classes)[given], kind="stable")


def confident_classes(probabilities: Floats, thresholds: Floats) -> Ints:
    """Return the class that each row confidently belongs to, -1 for none, shape (N,).

    A row is counted to the most probable of the classes whose threshold it reaches; where that is not the given one,
    the label is an error.

    Args:
        probabilities: (N, K).
        thresholds: (K,) see `class_thresholds`.
    """
    reached = np.where(probabilities >= thresholds - TOLERANCE, probabilities, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)
