"""Find rows whose answer the trained model does not believe: wrong labels, most likely.

N rows, K classes. Source: Northcutt, Jiang and Chuang 2021, "Confident learning", https://arxiv.org/abs/1911.00068.
"""

from __future__ import annotations

import numpy as np

from trainer.scoring.statistics.inference import Floats, Index

MIN_SPREAD = 1e-3
TOLERANCE = 1e-6
"""Rows that are all equally sure reach their own mean, whatever the rounding."""


def unusual_loss(losses: Floats, counts: Floats) -> Floats:
    """Return how far each row's mean loss stands above the median, in robust standard deviations, shape (N,).

    The spread is 1.4826 times the median absolute deviation, which equals the standard deviation of a normal
    distribution and does not grow with the errors to be found.

    Example: three rows of about 1 nat per token, one of 9.
        >>> losses, counts = np.array([10.0, 11.0, 9.0, 90.0]), np.full(4, 10.0)
        >>> np.round(unusual_loss(losses, counts), 1).tolist()
        [-0.3, 0.3, -1.0, 53.6]

    Args:
        losses: (N,) summed cross-entropy of each row, nats.
        counts: (N,) trained tokens of each row.
    """
    means = losses / np.maximum(counts, 1)
    median = np.median(means)
    spread = 1.4826 * np.median(np.abs(means - median))
    return np.asarray((means - median) / max(float(spread), MIN_SPREAD))


def class_thresholds(confidence: Floats, labels: Index, num_classes: int) -> Floats:
    """Return the mean probability that rows of a class give to that class, shape (K,): what counts as confident.

    Args:
        confidence: (N,) probability of each row's label.
        labels: (N,) class of each row.
        num_classes: K; a class without rows can never be confident.
    """
    rows = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=confidence, minlength=num_classes)
    return np.where(rows > 0, sums / np.maximum(rows, 1), np.inf)


def least_confident(confidence: Floats, labels: Index, num_classes: int) -> Index:
    """Return the rows in the order of their confidence, measured by that of their class, the lowest first."""
    return np.argsort(confidence - class_thresholds(confidence, labels, num_classes)[labels], kind="stable")


def confident_classes(probabilities: Floats, thresholds: Floats) -> Index:
    """Return the class that each row confidently belongs to, -1 for none, shape (N,).

    It is the most probable of the classes whose threshold the row reaches; if it is not the label, the label is an
    error.

    Example: a row can miss every threshold.
        >>> confident_classes(np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([0.7, 0.6])).tolist()
        [1, -1]

    Args:
        probabilities: (N, K).
        thresholds: (K,) see `class_thresholds`.
    """
    reached = np.where(probabilities >= thresholds - TOLERANCE, probabilities, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)
