"""Tell before anything runs which gates could never pass: not even with perfect or equal answers to all the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trainer.recipe.gates import Gate
from trainer.recipe.metrics import Confidence, Grader, JsonFields, LlmJudge, SemanticSimilarity
from trainer.scoring.gates.judge import LOWER_IS_BETTER, RATES, judge
from trainer.scoring.statistics.measurements import Evidence, Kind, score

Limit = Literal["min", "max", "min_gain", "max_drop"]
Shape = Kind | Literal["figure", "unbounded"]
"""How a metric is measured; figure: once, without an interval; unbounded: values of which none is the best."""

FIGURES = frozenset({"throughput_rps", "peak_memory_gib"})
LATENCIES = {"latency_p50_s": 0.5, "ttft_p50_s": 0.5, "latency_p95_s": 0.95}
UNBOUNDED = frozenset(
    {"loss", "perplexity", "preference_margin", "prompt_tokens", "answer_tokens", "kl", "loss_change"}
)
MOST_ROWS = 100_000
"""Above so many a number of rows is no longer looked for."""
ARM, RIVAL = "tuned", "base"


@dataclass(frozen=True)
class GateScope:
    """Where a gate looks."""

    shape: Shape
    rows: int
    """Rows or items there are at most."""
    what: str
    """What they are: `held-out rows`, `items of the suite general`."""
    more: str
    """How to have more of them."""
    lower_is_better: bool = False
    at: float = 0.5
    """The quantile."""
    groups: Sequence[str] | None = None
    """One key a row, where it is known which belong together."""


def unreachable(gate: Gate, place: GateScope) -> str | None:
    """Return why a gate can never pass where it looks, and what would be needed; None where it can."""
    if gate.layer == "must_pass" or gate.confidence is None:
        return None
    limits: tuple[Limit, ...] = ("min", "max", "min_gain", "max_drop")
    told = (_limit(gate, limit, place) for limit in limits if getattr(gate, limit) is not None)
    return next((f"can never pass: {sentence}" for sentence in told if sentence is not None), None)


def _limit(gate: Gate, limit: Limit, place: GateScope) -> str | None:
    asked = f"{gate.metric} {limit} {getattr(gate, limit):g}"
    if place.shape == "figure":
        return f"{asked}: it is measured once and has no interval; give the gate `confidence: null`"
    if place.shape == "quantile":
        return _quantile(gate, limit, place, asked)
    if place.shape == "unbounded":
        few = place.rows < 2
        return f"{asked}: {_have(place)}, and an interval takes at least 2; {place.more}" if few else None
    if _passes(gate, limit, place, place.rows, place.groups):
        return None
    needed = _needed(lambda rows: _passes(gate, limit, place, rows, None), place.rows)
    answers = "equal" if limit == "max_drop" else "perfect"
    if needed is None:
        return f"{asked}: no number of {answers} answers shows it at {gate.confidence:g}; {_instead(limit)}"
    return (
        f"{asked}: {_have(place)}, and it takes {needed:,} to show it with {answers} answers at confidence "
        f"{gate.confidence:g}; {place.more}, or a less strict limit"
    )


def _have(place: GateScope) -> str:
    known = "" if place.groups is None else f" in {len(set(place.groups)):,} groups"
    return f"there are {place.rows:,} {place.what}{known}"


def _instead(limit: Limit) -> str:
    match limit:
        case "max_drop":
            return "allow a drop above 0"
        case "min_gain":
            return "ask for a smaller gain"
        case "min" | "max":
            return "use `layer: must_pass`, or a limit that leaves room for a failure"


def _quantile(gate: Gate, limit: Limit, place: GateScope, asked: str) -> str | None:
    """Few rows do not bound a quantile: 10 requests say nothing about how high the 95th percentile may be."""
    sides = {"min": (1 - place.at,), "max": (place.at,)}.get(limit, (place.at, 1 - place.at))
    assert gate.confidence is not None
    needed = max(2, *(int(np.ceil(np.log(1 - gate.confidence) / np.log(side))) for side in sides))
    if place.rows >= needed:
        return None
    return f"{asked}: {_have(place)}, and it takes {needed} at confidence {gate.confidence:g}; {place.more}"


def _needed(passes: Callable[[int], bool], rows: int) -> int | None:
    """Return the fewest rows that pass, above those that there are; None where none up to MOST_ROWS do."""
    low, high = 1, max(2, rows)
    while not passes(high):
        low, high = high, 2 * high
        if high > MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _passes(gate: Gate, limit: Limit, place: GateScope, rows: int, groups: Sequence[str] | None) -> bool:
    """Judge the gate, with this limit alone, on the best answers that there could be."""
    if rows < 1:
        return False
    first, second = _best_answers(limit, place)
    evidence = {
        ARM: _evidence(place.shape, first, rows, groups),
        RIVAL: _evidence(place.shape, second, rows, groups),
    }
    limits = dict.fromkeys(("min", "max", "min_gain", "max_drop")) | {limit: getattr(gate, limit)}
    asked = gate.model_copy(
        update={**limits, "arm": ARM, "vs": RIVAL, "suite": None, "slice": None, "layer": "task", "metric": "best"}
    )
    scores: Mapping[str, Any] = {"arms": {arm: {"best": score(rows_of, 0)} for arm, rows_of in evidence.items()}}
    lower = {"best"} if place.lower_is_better else set()
    (entry,) = judge([asked], scores, lambda arm, *_: evidence[arm], lower_is_better=lower)
    return bool(entry["passed"])


def _best_answers(limit: Limit, place: GateScope) -> tuple[float, float]:
    """Return the mark of every answer of the judged arm and of the other one."""
    good, bad = (0.0, 1.0) if place.lower_is_better else (1.0, 0.0)
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
        return Evidence("f1", np.tile([mark, 1 - mark, 1 - mark], (rows, 1)), groups=groups)
    return Evidence("share" if shape == "share" else "mean", np.full(rows, mark), groups=groups, bounded=True)


def shape_of(metric: str, graders: Mapping[str, Grader]) -> Shape | None:
    """Return how a metric of the held-out rows is measured; None where nothing measures it."""
    if metric in FIGURES:
        return "figure"
    if metric in LATENCIES:
        return "quantile"
    if metric in UNBOUNDED:
        return "unbounded"
    if metric in ("clean_stop", "preference_accuracy", *RATES):
        return "share"
    return _graded(graders[metric]) if metric in graders else None


def _graded(grader: Grader) -> Shape:
    match grader:
        case Confidence() if grader.measure == "ece":
            return "unbounded"
        case LlmJudge() if grader.mode == "rubric":
            return "unbounded"
        case SemanticSimilarity():
            return "unbounded"
        case JsonFields() if grader.average == "micro":
            return "f1"
        case _:
            return "share" if grader.is_share else "mean"


def is_lower_better(metric: str, graders: Mapping[str, Grader]) -> bool:
    """Tell whether less of a metric is better."""
    return metric in LOWER_IS_BETTER or (metric in graders and not graders[metric].higher_is_better)
