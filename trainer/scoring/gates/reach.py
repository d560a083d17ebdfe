"""Tell before anything runs which gates can decide nothing, whatever the answers are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.recipe.gates import Gate
from trainer.scoring.gates.judge import judge
from trainer.scoring.gates.metrics import SHARE, Range, Shape
from trainer.scoring.statistics.measurements import Evidence, score
from trainer.shapes.scores import Scores

Limit = Literal["min", "max", "min_gain", "max_drop"]
LIMITS: tuple[Limit, ...] = ("min", "max", "min_gain", "max_drop")
MOST_ROWS = 100_000
"""Largest number of rows that is tried."""
ARM, RIVAL = "tuned", "base"


@dataclass(frozen=True)
class GateScope:
    """Where a gate looks."""

    shape: Shape
    rows: int
    """Most rows or items that there can be."""
    noun: str
    """What they are: `held-out rows`, `items of the suite general`."""
    remedy: str
    """How to have more of them."""
    lower_is_better: bool = False
    level: float = 0.5
    """Of a quantile."""
    groups: Sequence[str] | None = None
    """(rows,) one key per row, where it is known which belong together."""

    def __str__(self) -> str:
        groups = "" if self.groups is None else f" in {len(set(self.groups)):,} groups"
        return f"there are {self.rows:,} {self.noun}{groups}"


# Limits outside of what a metric can be


def out_of_range(gate: Gate, values: Range) -> str | None:
    """Return which limit of a gate no value of its metric can decide, and why; None where all can be met and missed.

    Example:
        >>> out_of_range(Gate(metric="exact_match", min=90), SHARE)
        'exact_match min 90: it is always from 0 to 1; 90 % is 0.9'
    """
    # two arms can differ by no more than the width of the range
    span = values.high - values.low
    for limit in LIMITS:
        bound: float | None = getattr(gate, limit)
        if bound is None:
            continue
        if limit in ("min", "max") and bound not in values:
            return f"{gate.metric} {limit} {bound:g}: it is always {values}{_advice(bound, values)}"
        if limit in ("min_gain", "max_drop") and abs(bound) > span:
            reason = f"it is always {values}, so two arms differ by at most {span:g}"
            return f"{gate.metric} {limit} {bound:g}: {reason}{_advice(bound, values)}"
    return None


def _advice(bound: float, values: Range) -> str:
    if values.is_rubric:
        return "; a judge's mark of 4 from 1 to 5 counts as 0.75"
    return f"; {bound:g} % is {bound / 100:g}" if values == SHARE and 1 < bound <= 100 else ""


# Limits that so few rows cannot prove


def unreachable(gate: Gate, scope: GateScope) -> str | None:
    """Return why a gate can never pass where it looks, and what it needs; None where it can."""
    if gate.layer == "must_pass" or gate.confidence is None:
        return None
    faults = (_limit_fault(gate, limit, scope) for limit in LIMITS if getattr(gate, limit) is not None)
    return next((f"can never pass: {fault}" for fault in faults if fault is not None), None)


def _limit_fault(gate: Gate, limit: Limit, scope: GateScope) -> str | None:
    condition = f"{gate.metric} {limit} {getattr(gate, limit):g}"
    if scope.shape == "figure":
        return f"{condition}: it is measured once and has no interval; give the gate `confidence: null`"
    if scope.shape == "quantile":
        return _quantile_fault(gate, limit, scope, condition)
    if scope.shape == "unbounded":
        return f"{condition}: {scope}, and an interval takes at least 2; {scope.remedy}" if scope.rows < 2 else None
    # the real judge on the best answers: what it refuses here it would refuse always
    if _passes(gate, limit, scope, scope.rows, scope.groups):
        return None
    needed = _rows_to_pass(lambda rows: _passes(gate, limit, scope, rows, None), scope.rows)
    answers = "equal" if limit == "max_drop" else "perfect"
    if needed is None:
        return f"{condition}: no number of {answers} answers shows it at {gate.confidence:g}; {_instead(limit)}"
    return (
        f"{condition}: {scope}, and it takes {needed:,} to show it with {answers} answers at confidence "
        f"{gate.confidence:g}; {scope.remedy}, or a less strict limit"
    )


def _instead(limit: Limit) -> str:
    match limit:
        case "max_drop":
            return "allow a drop above 0"
        case "min_gain":
            return "ask for a smaller gain"
        case "min" | "max":
            return "use `layer: must_pass`, or a limit that leaves room for a failure"


def _quantile_fault(gate: Gate, limit: Limit, scope: GateScope, condition: str) -> str | None:
    """Few rows do not bound a quantile: all n lie below it with probability level^n.

    Example: 58 requests may all lie below the 95th percentile, 59 hardly: 0.95^59 < 0.05.
        >>> scope = GateScope("quantile", 58, "timed rows", "raise it", level=0.95)
        >>> _quantile_fault(Gate(metric="latency_p95_s", max=2), "max", scope, "latency_p95_s max 2")
        'latency_p95_s max 2: there are 58 timed rows, and it takes 59 at confidence 0.95; raise it'
    """
    sides = {"min": (1 - scope.level,), "max": (scope.level,)}.get(limit, (scope.level, 1 - scope.level))
    assert gate.confidence is not None
    needed = max(2, *(math.ceil(math.log(1 - gate.confidence) / math.log(side)) for side in sides))  # side^n <= 1 - c
    if scope.rows >= needed:
        return None
    return f"{condition}: {scope}, and it takes {needed} at confidence {gate.confidence:g}; {scope.remedy}"


def _rows_to_pass(passes: Callable[[int], bool], rows: int) -> int | None:
    """Return the fewest rows that pass, above those that there are; None where none up to MOST_ROWS do."""
    # more perfect rows never prove less, so doubling and bisection find the fewest
    low, high = 1, max(2, rows)
    while not passes(high):
        low, high = high, 2 * high
        if high > MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _passes(gate: Gate, limit: Limit, scope: GateScope, rows: int, groups: Sequence[str] | None) -> bool:
    """Judge the gate, with this limit alone, on the best answers that there could be."""
    if rows < 1:
        return False
    marks = dict(zip((ARM, RIVAL), _best_marks(limit, scope), strict=True))
    evidence = {arm: _evidence(scope.shape, mark, rows, groups) for arm, mark in marks.items()}
    condition = dict.fromkeys((*LIMITS, "suite", "slice")) | {limit: getattr(gate, limit), "layer": "task"}
    single = gate.model_copy(update=condition | {"arm": ARM, "vs": RIVAL, "metric": "best"})
    scores: Scores = {"arms": {arm: {"best": score(values, 0)} for arm, values in evidence.items()}}  # type: ignore[typeddict-item]
    lower = {"best"} if scope.lower_is_better else set()
    (entry,) = judge([single], scores, lambda arm, _: evidence[arm], lower_is_better=lower)
    return entry["passed"]


def _best_marks(limit: Limit, scope: GateScope) -> tuple[float, float]:
    """Return the mark of every answer of the judged arm and of its rival."""
    good, bad = (0.0, 1.0) if scope.lower_is_better else (1.0, 0.0)
    match limit:
        case "min":
            return 1.0, 1.0
        case "max":
            return 0.0, 0.0
        case "min_gain":
            return good, bad
        case "max_drop":
            return good, good


def _evidence(shape: Shape, mark: float, rows: int, groups: Sequence[str] | None) -> Evidence:
    if shape == "f1":
        # tp, fp, fn of a row that is all right, or all wrong
        return Evidence("f1", np.tile([mark, 1 - mark, 1 - mark], (rows, 1)), groups=groups)
    return Evidence("share" if shape == "share" else "mean", np.full(rows, mark), groups=groups, bounded=True)
