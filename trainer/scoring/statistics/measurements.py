"""Hold what one arm scored on each row, and choose the statistics that fit its kind of metric."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import numpy as np

from trainer.scoring.statistics import comparisons, intervals
from trainer.scoring.statistics.inference import BOUND, INTERVAL, Bounds, Floats, Inference
from trainer.shapes.scores import Score, ScoreDifference

Kind = Literal["share", "mean", "ratio", "f1", "quantile"]


@dataclass(frozen=True)
class Evidence:
    """One metric of one arm, row by row.

    Two arms are compared row by row: both hold the same rows in the same order.
    """

    kind: Kind
    """share: marks of 0 or 1; mean: other scores; ratio: totals over `counts`; f1: tp, fp, fn; quantile: at `level`."""
    values: Floats
    """(rows,), or (rows, 3) for f1."""
    counts: Floats | None = None
    """(rows,) denominators of a ratio, for example answer tokens of a loss."""
    groups: Sequence[Hashable] | None = None
    """(rows,) one key per row, where rows belong together."""
    ids: Sequence[str] | None = None
    """(rows,) names, to report failures by name."""
    level: float = 0.5
    """Of a quantile."""
    bounded: bool | None = None
    """Marks lie between 0 and 1 by their nature; None: where all of these do, and one is 0 or 1."""

    @property
    def is_bounded(self) -> bool:
        """Tell whether it is a mean of marks that all lie in 0..1."""
        if self.kind == "mean" and self.bounded is None:
            return intervals.is_share(self.values, np.ones(len(self.values)))
        return self.kind == "share" or (self.kind == "mean" and bool(self.bounded))

    @property
    def denominators(self) -> Floats:
        """Return the counts of a ratio.

        Raises:
            ValueError: There are none.
        """
        if self.counts is None:
            raise ValueError("a ratio needs `counts`")
        return self.counts

    def inference(self, seed: int, confidence: float, unseen: float = INTERVAL) -> Inference:
        """Return how these rows were drawn, and how sure an interval must be."""
        return Inference(self.groups, seed, confidence, unseen, self.bounded)

    def bounds_of(self, seed: int, confidence: float) -> Inference:
        """Return the two-sided inference whose ends are one-sided bounds with this confidence."""
        # a one-sided bound at 95 % is an end of a two-sided interval at 90 %: tails of 5 % each
        return self.inference(seed, 2 * confidence - 1, BOUND)


def score(evidence: Evidence, seed: int) -> Score:
    """Return value, low, high and n, with a 95 % interval."""
    return _score(evidence, evidence.inference(seed, 0.95))


def difference(first: Evidence, second: Evidence, seed: int) -> ScoreDifference:
    """Return first minus second over the same rows, with a 95 % interval.

    Raises:
        ValueError: The two are not the same metric on the same number of rows.
    """
    return _difference(first, second, first.inference(seed, 0.95))


def value_bounds(evidence: Evidence, seed: int, confidence: float) -> Bounds:
    """Return the lower and the upper one-sided bound of the value."""
    if evidence.is_bounded:
        return intervals.exact_bounds(evidence.values, evidence.inference(seed, confidence))
    result = _score(evidence, evidence.bounds_of(seed, confidence))
    return result["low"], result["high"]


def difference_bounds(first: Evidence, second: Evidence, seed: int, confidence: float) -> Bounds:
    """Return the lower and the upper one-sided bound of first minus second."""
    if first.is_bounded and second.is_bounded:
        inference = first.inference(seed, confidence)
        return comparisons.share_difference_bounds(first.values, second.values, inference)
    result = _difference(first, second, first.bounds_of(seed, confidence))
    return result["low"], result["high"]


def _score(evidence: Evidence, inference: Inference) -> Score:
    values = evidence.values
    match evidence.kind:
        case "share":
            return intervals.proportion(values, inference)
        case "mean":
            return intervals.mean(values, inference)
        case "ratio":
            return intervals.ratio(values, evidence.denominators, inference)
        case "f1":
            # micro F1 = sum of 2 tp / sum of (2 tp + fp + fn): a ratio of sums over rows
            return intervals.ratio(*intervals.f1_parts(values), replace(inference, bounded=True))
        case "quantile":
            return intervals.quantile(values, evidence.level, inference)
        case _:
            assert_never(evidence.kind)


def _difference(first: Evidence, second: Evidence, inference: Inference) -> ScoreDifference:
    pair = first.values, second.values
    if (first.kind, len(first.values)) != (second.kind, len(second.values)):
        sizes = f"{len(first.values)} rows ({first.kind}) against {len(second.values)} rows ({second.kind})"
        raise ValueError(f"a paired comparison needs the same rows in both arms: {sizes}")
    match first.kind:
        case "share":
            return comparisons.share_difference(*pair, inference)
        case "mean":
            return comparisons.paired_difference(*pair, inference)
        case "ratio":
            return comparisons.paired_ratio_difference(*pair, first.denominators, inference)
        case "f1":
            return comparisons.paired_f1_difference(*pair, inference)
        case "quantile":
            return comparisons.paired_quantile_difference(*pair, first.level, inference)
        case _:
            assert_never(first.kind)
