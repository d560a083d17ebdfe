"""Compare tuned with base, metric by metric: values, tested difference, and whether it is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.render.metrics import (
    METRICS,
    OPERATIONAL,
    MetricDisplay,
    metric_of,
    with_interval,
    write_difference,
    write_interval,
    write_value,
)
from trainer.render.numbers import finite
from trainer.shapes.scores import ArmComparison, Score, Scores

SIGNIFICANT = 0.05
Standing = Literal["better", "worse", "unclear"]
NO_SCORES: Scores = {
    "primary": "",
    "heldout_rows": 0,
    "metrics": {},
    "arms": {},
    "facts": {},
    "comparisons": [],
    "slices": {},
    "suites": {},
    "retention": None,
    "most_frequent_answer": None,
}
"""Stands for eval/scores.json where eval has not run."""
_OPENING: dict[Standing, str] = {
    "better": "The tuned model beats the base model",
    "worse": "The tuned model is worse than the base model",
    "unclear": "No clear difference between tuned and base",
}


@dataclass(frozen=True)
class ScoreRow:
    """One line of a scores table: both arms, tuned minus base with its interval, and what that says."""

    metric: MetricDisplay
    base: Score | None
    tuned: Score | None
    difference: float | None
    low: float | None
    high: float | None
    standing: Standing

    @property
    def gain(self) -> str:
        """Return the difference with its interval in brackets."""
        interval = write_interval(self.metric, self.low, self.high, signed=True)
        return with_interval(write_difference(self.metric, self.difference), interval)


def score_rows(scores: Scores) -> list[ScoreRow]:
    """Line up the arms `base` and `tuned`, one row a metric, the deciding one first.

    Where a metric has no comparison, the difference is that of the values. It is clear only when the intervals of the
    arms do not overlap.
    """
    base, tuned = scores["arms"].get("base", {}), scores["arms"].get("tuned", {})
    comparisons = tuned_against_base(scores["comparisons"])
    rows = (
        score_row(metric, base.get(metric.key), tuned.get(metric.key), comparisons.get(metric.key))
        for metric in ordered_metrics(scores, ("base", "tuned"))
    )
    return [row for row in rows if row.base or row.tuned]


def ordered_metrics(scores: Scores, arms: Iterable[str]) -> list[MetricDisplay]:
    """Return what was measured of some arms: the primary metric, other quality, then what an answer takes."""
    measured = dict.fromkeys(key for arm in arms for key in scores["arms"].get(arm, {}))
    order = [scores["primary"], *scores["metrics"], *METRICS, *measured]
    return [metric_of(key, scores["metrics"]) for key in sorted(measured, key=order.index)]


def tuned_against_base(comparisons: Iterable[ArmComparison]) -> Mapping[str, ArmComparison]:
    """Return the comparisons of tuned with base, by metric."""
    return {entry["metric"]: entry for entry in comparisons if (entry["arm"], entry["vs"]) == ("tuned", "base")}


def verdict(scores: Scores) -> str:
    """Say in one sentence whether tuning helped, by the first quality metric that both arms have."""
    rows = score_rows(scores)
    if not rows:
        return "Not scored yet."
    row = next((row for row in rows if row.difference is not None and row.metric.key not in OPERATIONAL), None)
    if row is None or row.base is None or row.tuned is None:
        return "There is no metric with both a base and a tuned score, so the two cannot be compared."
    name = {"loss": "loss in nats a token"}.get(row.metric.key, row.metric.title)
    tuned, base = (write_value(row.metric, score["value"]) for score in (row.tuned, row.base))
    interval = write_interval(row.metric, row.low, row.high, signed=True)
    gain = write_difference(row.metric, row.difference) + (f" (95% interval {interval})" if interval else "")
    return f"{_OPENING[row.standing]}: {name} {tuned} against {base}, {gain}."


def finite_score(score: Score | None) -> Score | None:
    """Return a score without bounds that are not finite; None where the value is not finite."""
    if score is None or finite(score["value"]) is None:
        return None
    return {"value": score["value"], "low": finite(score["low"]), "high": finite(score["high"]), "n": score["n"]}


def score_row(
    metric: MetricDisplay, base: Score | None, tuned: Score | None, comparison: ArmComparison | None
) -> ScoreRow:
    """Line up two scores with their tested difference, or else the difference of the values.

    A comparison that is one of several counts only where its corrected p-value allows it.
    """
    base, tuned = finite_score(base), finite_score(tuned)
    difference = finite(comparison["difference"]) if comparison else None
    if comparison is None or difference is None:
        gap = tuned["value"] - base["value"] if base and tuned else None
        return ScoreRow(metric, base, tuned, gap, None, None, _standing(metric, *_gap_bounds(base, tuned)))
    low, high = finite(comparison["low"]), finite(comparison["high"])
    is_chance = comparison.get("holm_p_value", 0.0) > SIGNIFICANT
    standing = (
        "unclear"
        if is_chance
        else _standing(metric, *(_gap_bounds(base, tuned) if None in (low, high) else (low, high)))
    )
    return ScoreRow(metric, base, tuned, difference, low, high, standing)


def _gap_bounds(base: Score | None, tuned: Score | None) -> tuple[float | None, float | None]:
    """Return the least and the largest difference that the intervals of both arms allow; None where a bound misses."""
    if base is None or tuned is None:
        return None, None
    ends = base["low"], base["high"], tuned["low"], tuned["high"]
    if ends[0] is None or ends[1] is None or ends[2] is None or ends[3] is None:
        return None, None
    return ends[2] - ends[1], ends[3] - ends[0]


def _standing(metric: MetricDisplay, low: float | None, high: float | None) -> Standing:
    """Judge by the interval of the difference: clear where it leaves out zero."""
    if metric.better is None or low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == (metric.better == "higher") else "worse"
