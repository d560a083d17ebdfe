"""Draw the held-out rows again and again: how a decision would change with other rows.

Rows that share a group are resampled together: they are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer.decide.inputs import DecisionInputs, Interval
from trainer.render.numbers import finite
from trainer.scoring.statistics import comparisons
from trainer.scoring.statistics.inference import Inference
from trainer.shapes.predictions import ArmAnswer, Prediction
from trainer.shapes.scores import FAILURE_KINDS, ArmComparison

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class GradeTable:
    """Grades of the rows that every arm has answered."""

    arms: tuple[str, ...]
    groups: tuple[int, ...]
    """(N,) group of each row, from 0 on; rows of a group are drawn together."""
    grades: Floats
    """(N, A)"""
    failures: Floats
    """(N, A, F) failures by kind, in the order of FAILURE_KINDS."""

    @property
    def num_rows(self) -> int:
        """Rows that all arms share."""
        return len(self.groups)

    def by_group(self, values: Floats) -> Floats:
        """Return (G, ...) sums of (N, ...) values."""
        sums = np.zeros((len(set(self.groups)), *values.shape[1:]))
        np.add.at(sums, list(self.groups), values)
        return sums


def make_table(predictions: Sequence[Prediction], metric: str, arms: Sequence[str]) -> GradeTable:
    """Read the grades of eval/predictions.jsonl, of the rows that all `arms` have a grade for."""
    groups: dict[str, int] = {}
    rows: list[tuple[int, list[ArmAnswer]]] = []
    for index, prediction in enumerate(predictions):
        answers = [prediction["answers"][arm] for arm in arms if arm in prediction["answers"]]
        if sum(math.isfinite(answer["grades"].get(metric, math.nan)) for answer in answers) == len(arms):
            rows.append((groups.setdefault(prediction["group"] or f"row {index}", len(groups)), answers))
    kinds = [[answer["failure"] for answer in answers] for _, answers in rows]
    failures = [[[kind == failure for failure in FAILURE_KINDS] for kind in row] for row in kinds]
    grades = [[answer["grades"][metric] for answer in answers] for _, answers in rows]
    shape = len(rows), len(arms)
    return GradeTable(
        tuple(arms),
        tuple(group for group, _ in rows),
        np.array(grades, dtype=np.float64).reshape(shape),
        np.array(failures, dtype=np.float64).reshape(*shape, len(FAILURE_KINDS)),
    )


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
            gap = _paired(table.grades[:, i], table.grades[:, j], table.groups, seed)
            if gap is not None:
                differences[first, second], differences[second, first] = gap, gap.turned
    return differences


def _paired(first: Floats, second: Floats, groups: Sequence[int], seed: int) -> Interval | None:
    if len(first) < 2:
        return None
    inference = Inference(groups, seed, bounded=True)
    is_share = bool(np.isin(np.stack([first, second]), (0.0, 1.0)).all())
    compare = comparisons.share_difference if is_share else comparisons.paired_difference
    gap = compare(first, second, inference)
    low, high = gap["low"], gap["high"]
    return None if low is None or high is None else Interval(gap["difference"], low, high)


def reported_differences(entries: Iterable[ArmComparison], metric: str) -> dict[tuple[str, str], Interval]:
    """Return the differences that eval/scores.json states for a metric, in both directions."""
    differences = {}
    for entry in entries:
        value, low, high = (finite(number) for number in (entry["difference"], entry["low"], entry["high"]))
        if entry["metric"] == metric and value is not None and low is not None and high is not None:
            gap = Interval(value, low, high)
            differences[entry["arm"], entry["vs"]], differences[entry["vs"], entry["arm"]] = gap, gap.turned
    return differences


def resampled(inputs: DecisionInputs, resamples: Resamples, index: int) -> DecisionInputs:
    """Return the inputs as one resample would have given them: values move, widths of intervals stay."""
    arms = dict(inputs.arms)
    for position, name in enumerate(resamples.arms):
        kinds = dict(zip(FAILURE_KINDS, resamples.failures[index, position].tolist(), strict=True))
        quality = arms[name].quality.moved_by(float(resamples.shifts[index, position]))
        arms[name] = replace(arms[name], quality=quality, failures=kinds)
    differences = dict(inputs.differences)
    for i, first in enumerate(resamples.arms):
        for j, second in enumerate(resamples.arms):
            if (first, second) in differences:
                shift = float(resamples.shifts[index, i] - resamples.shifts[index, j])
                differences[first, second] = differences[first, second].moved_by(shift)
    return replace(inputs, arms=arms, differences=differences)
