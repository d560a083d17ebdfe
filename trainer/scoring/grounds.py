"""What a decision stands on: quality of the arms, their differences, kinds of failures, and resamples of all three.

Rows that share a group are resampled together: they are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Row = Mapping[str, Any]

RESAMPLES = 1000
FAILURES = ("format", "style", "knowledge", "refusal", "other")


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def moved_by(self, shift: float) -> Interval:
        """Return the interval elsewhere, as wide as it is."""
        return Interval(self.value + shift, self.low + shift, self.high + shift)


@dataclass(frozen=True)
class ArmGrounds:
    """One arm as measured."""

    name: str
    model: str
    """base, start, tuned or endpoint."""
    quality: Interval
    failures: Mapping[str, float]
    """Number of failed answers by kind."""
    documents: bool = False
    shots: int = 0
    latency_p95_s: float | None = None


@dataclass(frozen=True)
class Grounds:
    """All that the verdict looks at."""

    metric: str
    target: float
    num_rows: int
    arms: Mapping[str, ArmGrounds]
    differences: Mapping[tuple[str, str], Interval] = field(default_factory=dict)
    """Quality of the first arm less that of the second, on the same rows."""
    requests_per_day: float | None = None
    latency_limit_s: float | None = None
    cost_per_day: Mapping[str, float] = field(default_factory=dict)
    """At the stated volume; empty without prices or volume."""


@dataclass(frozen=True)
class Table:
    """Grades of the rows that every arm has answered, summed by group."""

    arms: tuple[str, ...]
    counts: Floats
    """(G,) rows of each group."""
    grades: Floats
    """(G, A) sums of grades."""
    failures: Floats
    """(G, A, F) failures by kind, in the order of FAILURES."""

    @property
    def num_rows(self) -> int:
        """Rows that all arms share."""
        return int(self.counts.sum())


def make_table(predictions: Sequence[Row], metric: str, arms: Sequence[str]) -> Table:
    """Sum the grades of eval/predictions.jsonl by group, over the rows that all `arms` have a grade for."""
    groups: dict[str, int] = {}
    rows: list[tuple[int, list[float], list[str | None]]] = []
    for index, row in enumerate(predictions):
        answers = [row["answers"].get(arm) or {} for arm in arms]
        grades = [grade for answer in answers if (grade := _grade(answer, metric)) is not None]
        if len(grades) < len(arms):
            continue
        group = groups.setdefault(str(row.get("group") or f"row {index}"), len(groups))
        rows.append((group, grades, [answer.get("failure") for answer in answers]))
    counts = np.zeros(len(groups))
    sums = np.zeros((len(groups), len(arms)))
    failures = np.zeros((len(groups), len(arms), len(FAILURES)))
    for group, grades, kinds in rows:
        counts[group] += 1
        sums[group] += grades
        for arm, kind in enumerate(kinds):
            if kind is not None:
                failures[group, arm, FAILURES.index(kind) if kind in FAILURES else -1] += 1
    return Table(tuple(arms), counts, sums, failures)


def _grade(answer: Row, metric: str) -> float | None:
    """Return the grade of one answer; eval writes it as a number or as a score with a `value`."""
    grade = (answer.get("grades") or {}).get(metric)
    value = grade.get("value") if isinstance(grade, Mapping) else grade
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class Resamples:
    """Seeded bootstrap over groups: R resamples."""

    arms: tuple[str, ...]
    shifts: Floats
    """(R, A) mean grade less that of all rows."""
    failures: Floats
    """(R, A, F) failures."""


def resample(table: Table, seed: int, num: int = RESAMPLES) -> Resamples | None:
    """Draw groups with replacement; None where there is no group to draw."""
    num_groups = len(table.counts)
    if not num_groups:
        return None
    weights = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num)
    rows = weights @ table.counts  # (R,)
    shifts = (weights @ table.grades) / rows[:, None] - table.grades.sum(0) / table.counts.sum()  # (R, A)
    return Resamples(table.arms, shifts, np.einsum("rg,gaf->raf", weights.astype(float), table.failures))


def paired_differences(table: Table, resamples: Resamples) -> dict[tuple[str, str], Interval]:
    """Return the difference of every pair of arms with its percentile interval."""
    means = table.grades.sum(0) / table.counts.sum()
    found = {}
    for i, first in enumerate(table.arms):
        for j, second in enumerate(table.arms):
            if i != j:
                value = float(means[i] - means[j])
                low, high = np.quantile(resamples.shifts[:, i] - resamples.shifts[:, j], [0.025, 0.975])
                found[first, second] = Interval(value, value + float(low), value + float(high))
    return found


def reported_differences(comparisons: Sequence[Row], metric: str) -> dict[tuple[str, str], Interval]:
    """Return the differences that eval/scores.json states for a metric, in both directions."""
    found = {}
    for item in comparisons:
        numbers = [item.get(key) for key in ("difference", "low", "high")]
        known = [float(number) for number in numbers if isinstance(number, int | float) and math.isfinite(number)]
        if item.get("metric") == metric and len(known) == len(numbers):
            value, low, high = known
            found[item["arm"], item["vs"]] = Interval(value, low, high)
            found[item["vs"], item["arm"]] = Interval(-value, -high, -low)
    return found


def resampled(grounds: Grounds, resamples: Resamples, index: int) -> Grounds:
    """Return the grounds as one resample would have given them: values move, widths of intervals stay."""
    arms = dict(grounds.arms)
    for position, name in enumerate(resamples.arms):
        kinds = dict(zip(FAILURES, resamples.failures[index, position].tolist(), strict=True))
        quality = arms[name].quality.moved_by(float(resamples.shifts[index, position]))
        arms[name] = replace(arms[name], quality=quality, failures=kinds)
    differences = dict(grounds.differences)
    for i, first in enumerate(resamples.arms):
        for j, second in enumerate(resamples.arms):
            if (first, second) in differences:
                shift = float(resamples.shifts[index, i] - resamples.shifts[index, j])
                differences[first, second] = differences[first, second].moved_by(shift)
    return replace(grounds, arms=arms, differences=differences)
