"""Whether the rows prove what the gates ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.recipe.gates import BEST_PROMPTED, Gate, Layer
from trainer.scoring.habits import HABITS
from trainer.scoring.statistics.bootstrap import Bounds
from trainer.scoring.statistics.clusters import Floats
from trainer.scoring.statistics.intervals import rows_needed
from trainer.scoring.statistics.measurements import Evidence, difference_bounds, value_bounds

Verdict = Literal["pass", "fail", "insufficient_evidence", "not_run"]
Lookup = Callable[[str, str, str | None, dict[str, str] | None], Evidence | None]
"""(arm, metric, suite, slice) to its rows, or None where it was not measured row by row."""

OPERATIONS = (
    "latency_p50_s",
    "latency_p95_s",
    "ttft_p50_s",
    "throughput_rps",
    "prompt_tokens",
    "answer_tokens",
    "peak_memory_gib",
    "clean_stop",
)
"""Metrics of running a model, in the order in which they are shown."""
RATES = ("format_leak_rate", *HABITS)
"""Shares of the general prompts, one of each arm."""
RETENTION = frozenset({"kl", "loss_change", *RATES})
LOWER_IS_BETTER = frozenset(
    {
        "loss",
        "perplexity",
        "latency_p50_s",
        "latency_p95_s",
        "ttft_p50_s",
        "prompt_tokens",
        "answer_tokens",
        "peak_memory_gib",
        "kl",
        "loss_change",
        *RATES,
    }
)
WORST_FIRST: tuple[Verdict, ...] = ("fail", "not_run", "insufficient_evidence", "pass")
EPSILON = 1e-9  # 0.7 - 0.3 is less than 0.4 in binary
INTERVAL_CONFIDENCE = 0.975  # one end of a 95 % interval


@dataclass(frozen=True)
class _Measured:
    """What gates are judged by; see `judge`."""

    scores: Mapping[str, Any]
    lookup: Lookup
    prompted: Collection[str]
    lower_is_better: Collection[str]
    seed: int


@dataclass
class _Finding:
    verdict: Verdict
    sentence: str
    items: list[dict[str, Any]] = field(default_factory=list)


def judge(
    gates: Sequence[Gate],
    scores: Mapping[str, Any],
    evidence: Lookup,
    *,
    prompted: Collection[str] = (),
    lower_is_better: Collection[str] = LOWER_IS_BETTER,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return one entry of eval/gates.json for each gate.

    A limit passes when its one-sided bound lies on the right side, fails when the opposite bound lies on the wrong
    side, and is insufficient evidence in between. What was not measured is not_run.

    Args:
        gates: Conditions of the recipe.
        scores: As eval/scores.json.
        evidence: Rows behind the scores; where it has none, the ends of the 95 % intervals in `scores` are the bounds.
        prompted: Arms among which `best_prompted` chooses.
        lower_is_better: Names of metrics.
        seed: Of the bootstrap.
    """
    measured = _Measured(scores, evidence, prompted, lower_is_better, seed)
    return [_entry(gate, measured) for gate in gates]


def _entry(gate: Gate, measured: _Measured) -> dict[str, Any]:
    layer = _layer(gate, measured.scores)
    finding = _must_pass(gate, measured) if layer == "must_pass" else _limits(gate, measured)
    entry = {
        "gate": gate.model_dump(exclude_none=True) | {"confidence": gate.confidence},
        "layer": layer,
        "verdict": finding.verdict,
        "passed": finding.verdict == "pass",
        "sentence": _place(gate) + finding.sentence,
    }
    return entry | ({"items": finding.items} if finding.items else {})


def _layer(gate: Gate, scores: Mapping[str, Any]) -> Layer:
    if gate.layer != "auto":
        return gate.layer
    if gate.suite is not None:
        suite = (scores.get("suites") or {}).get(gate.suite, {})
        return "must_pass" if suite.get("must_pass") else "retention"
    if gate.metric in OPERATIONS:
        return "operations"
    return "retention" if gate.metric in RETENTION else "task"


def _place(gate: Gate) -> str:
    if gate.suite is not None:
        return f"suite {gate.suite}: "
    return "".join(f"{name} {value}: " for name, value in (gate.slice or {}).items())


def _must_pass(gate: Gate, measured: _Measured) -> _Finding:
    """Ask for every item, by name."""
    rows = measured.lookup(gate.arm, gate.metric, gate.suite, gate.slice)
    score = _score(measured.scores, gate, gate.arm)
    if rows is None and score is None:
        return _not_run(gate, gate.arm)
    if rows is None or rows.values.ndim != 1 or not len(rows.values):
        perfect = score is not None and bool(score["n"]) and score["value"] >= 1
        value = f"{score['value']:.4g} of {score['n']} items" if score else "no items"
        return _Finding("pass" if perfect else "fail", f"{gate.arm}: {gate.metric} {value}; all must pass")
    names = rows.ids or [f"item {place + 1}" for place in range(len(rows.values))]
    items = [
        {"id": str(name), "passed": bool(value >= 1)} for name, value in zip(names, rows.values.tolist(), strict=True)
    ]
    failed = [str(item["id"]) for item in items if not item["passed"]]
    if not failed:
        return _Finding("pass", f"{gate.arm}: all {len(items)} must-pass items are right ({gate.metric})", items)
    named = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
    return _Finding(
        "fail", f"{gate.arm}: {len(failed)} of {len(items)} must-pass items fail {gate.metric}: {named}", items
    )


def _limits(gate: Gate, measured: _Measured) -> _Finding:
    """Judge each stated limit; the worst verdict counts, and its sentences are told."""
    found = [*_value_limits(gate, measured), *(_gain_limits(gate, measured) if gate.compares else [])]
    worst = next(verdict for verdict in WORST_FIRST if any(finding.verdict == verdict for finding in found))
    told = dict.fromkeys(finding.sentence for finding in found if finding.verdict == worst)
    return _Finding(worst, "; ".join(told))


def _value_limits(gate: Gate, measured: _Measured) -> list[_Finding]:
    if gate.min is None and gate.max is None:
        return []
    score = _score(measured.scores, gate, gate.arm)
    if score is None:
        return [_not_run(gate, gate.arm)]
    rows, value = measured.lookup(gate.arm, gate.metric, gate.suite, gate.slice), score["value"]
    low, high = _value_bounds(gate, measured, rows, score)
    found = []
    if gate.min is not None:
        verdict = _verdict(low, high, gate.min, strict=False)
        told = f"{gate.arm}: {gate.metric} {value:.4g} against at least {gate.min:.4g}"
        needed = _rows_needed(gate.min, lambda marks: int((marks < 1).sum()), rows, gate.confidence)
        found.append(_Finding(verdict, told + _doubt(verdict, gate, (low, high), score["n"], needed)))
    if gate.max is not None:
        verdict = _verdict(_negative(high), _negative(low), -gate.max, strict=False)
        told = f"{gate.arm}: {gate.metric} {value:.4g} against at most {gate.max:.4g}"
        needed = _rows_needed(1 - gate.max, lambda marks: int((marks > 0).sum()), rows, gate.confidence)
        found.append(_Finding(verdict, told + _doubt(verdict, gate, (low, high), score["n"], needed)))
    return found


def _gain_limits(gate: Gate, measured: _Measured) -> list[_Finding]:
    other = _best_prompted(gate, measured) if gate.vs == BEST_PROMPTED else gate.vs
    if other is None:
        return [_Finding("not_run", f"{gate.metric} of a prompted arm was not measured")]
    score, against = _score(measured.scores, gate, gate.arm), _score(measured.scores, gate, other)
    if score is None or against is None:
        return [_not_run(gate, gate.arm if score is None else other)]
    sign = -1 if gate.metric in measured.lower_is_better else 1
    gain = sign * (score["value"] - against["value"])
    low, high = _gain_bounds(gate, measured, other, gain, sign)
    found = []
    if gate.min_gain is not None:
        verdict = _verdict(low, high, gate.min_gain, strict=gate.confidence is not None)
        told = f"{gate.arm}: {gate.metric} gains {gain:.4g} over {other} against at least {gate.min_gain:.4g}"
        found.append(_Finding(verdict, told + _doubt(verdict, gate, (low, high), score["n"])))
    if gate.max_drop is not None:
        verdict = _verdict(low, high, -gate.max_drop, strict=gate.confidence is not None)
        told = f"{gate.arm}: {gate.metric} drops {-gain:.4g} under {other} against at most {gate.max_drop:.4g}"
        found.append(_Finding(verdict, told + _doubt(verdict, gate, (low, high), score["n"])))
    return found


def _value_bounds(gate: Gate, measured: _Measured, rows: Evidence | None, score: Mapping[str, Any]) -> Bounds:
    if gate.confidence is None:
        return score["value"], score["value"]
    if rows is not None and len(rows.values):
        return value_bounds(rows, measured.seed, gate.confidence)
    return _interval(score, gate.confidence)


def _gain_bounds(gate: Gate, measured: _Measured, other: str, gain: float, sign: int) -> Bounds:
    """Return bounds of the gain, where more is better whatever the metric."""
    if gate.confidence is None:
        return gain, gain
    first = measured.lookup(gate.arm, gate.metric, gate.suite, gate.slice)
    second = measured.lookup(other, gate.metric, gate.suite, gate.slice)
    if first is not None and second is not None and len(first.values):
        low, high = difference_bounds(first, second, measured.seed, gate.confidence)
    else:
        place = (measured.scores.get("suites") or {}).get(gate.suite, {}) if gate.suite else measured.scores
        wanted = {"arm": gate.arm, "vs": other, "metric": gate.metric}
        matches = [] if gate.slice else [c for c in place.get("comparisons", []) if wanted.items() <= c.items()]
        low, high = _interval(matches[0], gate.confidence) if matches else (None, None)
    return (low, high) if sign == 1 else (_negative(high), _negative(low))


def _interval(score: Mapping[str, Any], confidence: float) -> Bounds:
    """Use a 95 % interval, each end of which is a one-sided bound at 97.5 %."""
    return (score.get("low"), score.get("high")) if confidence <= INTERVAL_CONFIDENCE else (None, None)


def _verdict(low: float | None, high: float | None, limit: float, *, strict: bool) -> Verdict:
    """Place bounds against a lower limit; `strict` asks for more than the limit, as a gain of exactly 0 is none."""
    if low is not None and (low > limit if strict else low >= limit - EPSILON):
        return "pass"
    return "fail" if high is not None and high < limit - EPSILON else "insufficient_evidence"


def _doubt(verdict: Verdict, gate: Gate, bounds: Bounds, n: int, needed: str = "") -> str:
    """Say how sure the rows make it, and what would settle it."""
    if gate.confidence is None:
        return ""
    if bounds == (None, None):
        return f" ({n} measured, no interval): set `confidence: null` on the gate to compare the value itself"
    ends = " to ".join("unknown" if end is None else f"{end:.4g}" for end in bounds)
    told = f" (at {gate.confidence * 100:g} % confidence {ends}, {n} rows)"
    return told + (f": too few rows to tell{needed}" if verdict == "insufficient_evidence" else "")


def _rows_needed(
    rate: float, failures: Callable[[Floats], int], rows: Evidence | None, confidence: float | None
) -> str:
    """Say how many rows would prove a share; nothing where the metric is no share."""
    if rows is None or rows.kind != "share" or confidence is None or not 0 < rate < 1:
        return ""
    found = failures(rows.values)
    clean = f"; {rows_needed(rate, 0, confidence=confidence):,} rows without a failure would show it"
    return clean + (f", {rows_needed(rate, found, confidence=confidence):,} with {found}" if found else "")


def _best_prompted(gate: Gate, measured: _Measured) -> str | None:
    """Return the prompted arm with the best value."""
    found = {
        arm: score["value"] for arm in measured.prompted if (score := _score(measured.scores, gate, arm)) is not None
    }
    sign = -1 if gate.metric in measured.lower_is_better else 1
    return max(found, key=lambda arm: sign * found[arm]) if found else None


def _score(scores: Mapping[str, Any], gate: Gate, arm: str) -> Mapping[str, Any] | None:
    """Find the score that a gate speaks of."""
    place: Mapping[str, Any] = scores
    if gate.suite is not None:
        place = (scores.get("suites") or {}).get(gate.suite, {})
    for name, value in (gate.slice or {}).items():
        place = (scores.get("slices") or {}).get(name, {}).get(value, {})
    found = place.get("arms", {}).get(arm, {}).get(gate.metric)
    if found is None and gate.suite is None and gate.slice is None:
        found = (scores.get("retention") or {}).get(gate.metric)
        if isinstance(found, Mapping) and "value" not in found:
            found = found.get(arm)
        elif arm != "tuned":  # retention looks at the tuned model alone
            found = None
    return found if isinstance(found, Mapping) and found.get("value") is not None else None


def _not_run(gate: Gate, arm: str) -> _Finding:
    return _Finding("not_run", f"{gate.metric} of {arm} was not measured")


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
