"""What one arm scored on each row, whatever the kind of metric, and the statistics that fit it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.scoring.statistics import comparisons, intervals
from trainer.scoring.statistics.bootstrap import Bounds
from trainer.scoring.statistics.clusters import Floats
from trainer.scoring.statistics.comparisons import Difference
from trainer.scoring.statistics.intervals import BOUND, INTERVAL, Score

Kind = Literal["share", "mean", "ratio", "f1", "quantile"]


@dataclass(frozen=True)
class Evidence:
    """One metric of one arm, row by row.

    Two arms are compared row by row: both hold the same rows in the same order.
    """

    kind: Kind
    """share: marks of 0 or 1; mean: other scores; ratio: totals over `counts`; f1: tp, fp, fn; quantile: `at`."""
    values: Floats
    """(rows,), or (rows, 3) for f1."""
    counts: Floats | None = None
    """(rows,) denominators of a ratio, for example answer tokens of a loss."""
    groups: Sequence[Hashable] | None = None
    """One key a row, where rows belong together."""
    ids: Sequence[str] | None = None
    """Names of the rows, for failures that are told by name."""
    at: float = 0.5
    """The quantile."""
    bounded: bool | None = None
    """Marks lie between 0 and 1 by their nature; None: where all of these do, and one is 0 or 1."""

    @property
    def is_bounded(self) -> bool:
        """Tell whether it is a mean of marks that all lie in 0..1."""
        if self.kind == "mean" and self.bounded is None:
            return intervals.is_share(self.values, np.ones(len(self.values)))
        return self.kind == "share" or (self.kind == "mean" and bool(self.bounded))


def score(evidence: Evidence, seed: int, *, confidence: float = 0.95, unseen: float = INTERVAL) -> Score:
    """Return value, low, high and n; `unseen` as of `intervals.ratio`."""
    values, groups, bounded = evidence.values, evidence.groups, evidence.bounded
    match evidence.kind:
        case "share":
            return intervals.proportion(values, groups, confidence=confidence)
        case "mean":
            return intervals.mean(values, seed, groups, confidence=confidence, unseen=unseen, bounded=bounded)
        case "ratio":
            return intervals.ratio(
                values, _counts(evidence), seed, groups, confidence=confidence, unseen=unseen, bounded=bounded
            )
        case "f1":
            return intervals.micro_f1(values, seed, groups, confidence=confidence, unseen=unseen)
        case "quantile":
            return intervals.quantile(values, evidence.at, seed, groups, confidence=confidence)


def difference(
    first: Evidence, second: Evidence, seed: int, *, confidence: float = 0.95, unseen: float = INTERVAL
) -> Difference:
    """Return first minus second over the same rows.

    Raises:
        ValueError: The two are not the same metric on the same number of rows.
    """
    if (first.kind, len(first.values)) != (second.kind, len(second.values)):
        found = f"{len(first.values)} rows ({first.kind}) against {len(second.values)} rows ({second.kind})"
        raise ValueError(f"a paired comparison needs the same rows in both arms: {found}")
    one, other, groups = first.values, second.values, first.groups
    certainty: dict[str, float] = {"confidence": confidence, "unseen": unseen}
    match first.kind:
        case "share":
            return comparisons.share_difference(one, other, groups, confidence=confidence)
        case "mean":
            return comparisons.paired_difference(one, other, seed, groups, bounded=first.bounded, **certainty)
        case "ratio":
            counts, bounded = _counts(first), first.bounded
            return comparisons.paired_ratio_difference(one, other, counts, seed, groups, bounded=bounded, **certainty)
        case "f1":
            return comparisons.paired_f1_difference(one, other, seed, groups, **certainty)
        case "quantile":
            return comparisons.paired_quantile_difference(one, other, first.at, seed, groups, confidence=confidence)


def value_bounds(evidence: Evidence, seed: int, confidence: float) -> Bounds:
    """Return the lower and the upper one-sided bound of the value."""
    if evidence.is_bounded:
        return intervals.exact_bounds(evidence.values, evidence.groups, confidence=confidence)
    found = score(evidence, seed, confidence=2 * confidence - 1, unseen=BOUND)
    return found["low"], found["high"]


def difference_bounds(first: Evidence, second: Evidence, seed: int, confidence: float) -> Bounds:
    """Return the lower and the upper one-sided bound of first minus second."""
    if first.is_bounded and second.is_bounded:
        return comparisons.share_difference_bounds(first.values, second.values, first.groups, confidence=confidence)
    found = difference(first, second, seed, confidence=2 * confidence - 1, unseen=BOUND)
    return found["low"], found["high"]


def _counts(evidence: Evidence) -> Floats:
    if evidence.counts is None:
        raise ValueError("a ratio needs `counts`")
    return evidence.counts
