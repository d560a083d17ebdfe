"""What a decision stands on: quality of the arms, their differences, kinds of failures, and resamples of all three.

Rows that share a group are resampled together: they are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainer.scoring.statistics import comparisons
from trainer.scoring.statistics.inference import Inference

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

    @property
    def turned(self) -> Interval:
        """Return the difference the other way round."""
        return Interval(-self.value, -self.high, -self.low)

    def shrunk(self, factor: float) -> Interval:
        """Return the interval with both arms shorter by a factor, as more rows would make it."""
        return Interval(
            self.value, self.value - (self.value - self.low) / factor, self.value + (self.high - self.value) / factor
        )


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
    stronger_retriever: str | None = None
    """How to install a better retriever than the one that chose its examples or passages; None where it had that."""


@dataclass(frozen=True)
class DecisionInputs:
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
    cost_per_1000: Mapping[str, float] = field(default_factory=dict)
    """Of 1,000 requests on fully used replicas, what is paid once left out; empty without prices."""
    cost_per_accepted: Mapping[str, float] = field(default_factory=dict)
    """Of an answer that is right, at the stated volume; empty without prices or volume."""
    closed_set: bool = False
    """The right answers are those of the training rows: labels, not facts."""
    documents_exist: bool = False
    """The recipe has an arm with documents, measured or not."""


@dataclass(frozen=True)
class GradeTable:
    """Grades of the rows that every arm has answered."""

    arms: tuple[str, ...]
    groups: tuple[int, ...]
    """(N,) group of each row, from 0 on; rows of a group are drawn together."""
    grades: Floats
    """(N, A)"""
    failures: Floats
    """(N, A, F) failures by kind, in the order of FAILURES."""

    @property
    def num_rows(self) -> int:
        """Rows that all arms share."""
        return len(self.groups)

    def by_group(self, values: Floats) -> Floats:
        """Return (G, ...) sums of (N, ...) values."""
        sums = np.zeros((len(set(self.groups)), *values.shape[1:]))
        np.add.at(sums, list(self.groups), values)
        return sums


def make_table(predictions: Sequence[Row], metric: str, arms: Sequence[str]) -> GradeTable:
    """Read the grades of eval/predictions.jsonl, of the rows that all `arms` have a grade for."""
    groups: dict[str, int] = {}
    rows: list[tuple[int, list[float], list[str | None]]] = []
    for index, row in enumerate(predictions):
        answers = [row["answers"].get(arm) or {} for arm in arms]
        grades = [grade for answer in answers if (grade := _grade(answer, metric)) is not None]
        if len(grades) < len(arms):
            continue
        group = groups.setdefault(str(row.get("group") or f"row {index}"), len(groups))
        rows.append((group, grades, [answer.get("failure") for answer in answers]))
    failures = np.zeros((len(rows), len(arms), len(FAILURES)))
    for place, (_, _, kinds) in enumerate(rows):
        for arm, kind in enumerate(kinds):
            if kind is not None:
                failures[place, arm, FAILURES.index(kind) if kind in FAILURES else -1] = 1
    marks = np.array([grades for _, grades, _ in rows]).reshape(len(rows), len(arms))
    return GradeTable(tuple(arms), tuple(group for group, _, _ in rows), marks, failures)


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


def resample(table: GradeTable, seed: int, num: int = RESAMPLES) -> Resamples | None:
    """Draw groups with replacement; None where there is no group to draw."""
    num_groups = len(set(table.groups))
    if not num_groups:
        return None
    weights = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num)
    counts = table.by_group(np.ones(table.num_rows))
    rows = weights @ counts  # (R,)
    shifts = (weights @ table.by_group(table.grades)) / rows[:, None] - table.grades.mean(0)  # (R, A)
    failures = np.einsum("rg,gaf->raf", weights.astype(float), table.by_group(table.failures))
    return Resamples(table.arms, shifts, failures)


def paired_differences(table: GradeTable, seed: int) -> dict[tuple[str, str], Interval]:
    """Return the difference of every pair of arms with its interval; none of a single row or group."""
    differences = {}
    for i, first in enumerate(table.arms):
        for j, second in enumerate(table.arms[:i]):
            found = _paired(table.grades[:, i], table.grades[:, j], table.groups, seed)
            if found is not None:
                differences[first, second], differences[second, first] = found, found.turned
    return differences


def _paired(first: Floats, second: Floats, groups: Sequence[int], seed: int) -> Interval | None:
    if len(first) < 2:
        return None
    inference = Inference(groups, seed, bounded=True)
    shares = bool(np.isin(np.stack([first, second]), (0.0, 1.0)).all())
    found = (
        comparisons.share_difference(first, second, inference)
        if shares
        else comparisons.paired_difference(first, second, inference)
    )
    low, high = found["low"], found["high"]
    return None if low is None or high is None else Interval(found["difference"], low, high)


def reported_differences(comparisons: Sequence[Row], metric: str) -> dict[tuple[str, str], Interval]:
    """Return the differences that eval/scores.json states for a metric, in both directions."""
    found = {}
    for item in comparisons:
        numbers = [item.get(key) for key in ("difference", "low", "high")]
        known = [float(number) for number in numbers if isinstance(number, int | float) and math.isfinite(number)]
        if item.get("metric") == metric and len(known) == len(numbers):
            value, low, high = known
            found[item["arm"], item["vs"]] = Interval(value, low, high)
            found[item["vs"], item["arm"]] = Interval(value, low, high).turned
    return found


def resampled(grounds: DecisionInputs, resamples: Resamples, index: int) -> DecisionInputs:
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
