"""Judge whether the rows prove what the gates ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

from trainer.recipe.gates import BEST_PROMPTED, Gate
from trainer.scoring.gates.metrics import LOWER_IS_BETTER, MEASURED
from trainer.scoring.statistics.inference import Bounds, Floats
from trainer.scoring.statistics.intervals import rows_needed
from trainer.scoring.statistics.measurements import Evidence, difference_bounds, value_bounds
from trainer.shapes.gates import GateCondition, GateItem, GateResult, GateVerdict, Layer
from trainer.shapes.scores import ArmComparison, Rate, Score, Scores

Lookup = Callable[[str, Gate], Evidence | None]
"""(arm, gate) to the rows of the gate's metric, or None where it was not measured row by row."""
WORST_FIRST: tuple[GateVerdict, ...] = ("fail", "not_run", "insufficient_evidence", "pass")
EPSILON = 1e-9  # 0.7 - 0.3 is less than 0.4 in binary
INTERVAL_CONFIDENCE = 0.975  # one end of a 95 % interval
MAX_NAMED = 5
"""Failed items that a sentence names."""


@dataclass
class _Finding:
    verdict: GateVerdict
    sentence: str
    items: list[GateItem] = field(default_factory=list)


def judge(
    gates: Sequence[Gate],
    scores: Scores,
    lookup: Lookup,
    *,
    prompted: Collection[str] = (),
    lower_is_better: Collection[str] = LOWER_IS_BETTER,
    seed: int = 0,
) -> list[GateResult]:
    """Return one entry of eval/gates.json for each gate.

    A limit passes when its one-sided bound lies on the right side, fails when the opposite bound lies on the wrong
    side, and is insufficient evidence in between. A metric that was not measured is not_run.

    Args:
        gates: Conditions of the recipe.
        scores: As eval/scores.json.
        lookup: Rows behind the scores; without rows, the ends of the 95 % intervals in `scores` are the bounds.
        prompted: Arms among which `best_prompted` chooses.
        lower_is_better: Names of metrics.
        seed: Of the bootstrap.
    """
    court = _Judge(scores, lookup, prompted, lower_is_better, seed)
    return [court.entry(gate) for gate in gates]


@dataclass(frozen=True)
class _Judge:
    """What gates are judged by; see `judge`."""

    scores: Scores
    lookup: Lookup
    prompted: Collection[str]
    lower_is_better: Collection[str]
    seed: int

    def entry(self, gate: Gate) -> GateResult:
        """Judge one gate."""
        layer = self._layer(gate)
        finding = self._must_pass(gate) if layer == "must_pass" else self._limits(gate)
        condition = cast("GateCondition", gate.model_dump(exclude_none=True) | {"confidence": gate.confidence})
        entry: GateResult = {
            "gate": condition,
            "layer": layer,
            "verdict": finding.verdict,
            "passed": finding.verdict == "pass",
            "sentence": _scope(gate) + finding.sentence,
        }
        if finding.items:
            entry["items"] = finding.items
        return entry

    def _layer(self, gate: Gate) -> Layer:
        if gate.layer != "auto":
            return gate.layer
        if gate.suite is not None:
            suite = (self.scores.get("suites") or {}).get(gate.suite)
            return "must_pass" if suite and suite.get("must_pass") else "retention"
        return MEASURED[gate.metric].layer if gate.metric in MEASURED else "task"

    def _must_pass(self, gate: Gate) -> _Finding:
        """Ask for every item, by name."""
        rows, score = self.lookup(gate.arm, gate), self._score(gate, gate.arm)
        if rows is None and score is None:
            return _not_run(gate, gate.arm)
        # counts of an F1 (rows, 3) have no mark for each item
        if rows is None or rows.values.ndim != 1 or not len(rows.values):
            perfect = score is not None and bool(score["n"]) and score["value"] >= 1
            value = f"{score['value']:.4g} of {score['n']} items" if score else "no items"
            return _Finding("pass" if perfect else "fail", f"{gate.arm}: {gate.metric} {value}; all must pass")
        names = rows.ids or [f"item {number}" for number in range(1, len(rows.values) + 1)]
        items: list[GateItem] = [
            {"id": str(name), "passed": value >= 1} for name, value in zip(names, rows.values.tolist(), strict=True)
        ]
        failed = [item["id"] for item in items if not item["passed"]]
        if not failed:
            return _Finding("pass", f"{gate.arm}: all {len(items)} must-pass items are right ({gate.metric})", items)
        listed = ", ".join(failed[:MAX_NAMED]) + (
            f" and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
        )
        counts = f"{len(failed)} of {len(items)} must-pass items fail {gate.metric}"
        return _Finding("fail", f"{gate.arm}: {counts}: {listed}", items)

    def _limits(self, gate: Gate) -> _Finding:
        """Judge each stated limit; the worst verdict counts, with its sentences."""
        findings = [*self._value_limits(gate), *(self._gain_limits(gate) if gate.compares else [])]
        # every limit of a gate must hold
        worst = next(verdict for verdict in WORST_FIRST if any(finding.verdict == verdict for finding in findings))
        sentences = dict.fromkeys(finding.sentence for finding in findings if finding.verdict == worst)
        return _Finding(worst, "; ".join(sentences))

    def _value_limits(self, gate: Gate) -> list[_Finding]:
        if gate.min is None and gate.max is None:
            return []
        score = self._score(gate, gate.arm)
        if score is None:
            return [_not_run(gate, gate.arm)]
        rows = self.lookup(gate.arm, gate)
        # one-sided bounds: P(value < low) and P(value > high) are each at most 1 - confidence
        low, high = self._value_bounds(gate, rows, score)
        value, findings = f"{gate.arm}: {gate.metric} {score['value']:.4g} against", []
        if gate.min is not None:
            verdict = _verdict(low, high, gate.min, strict=False)
            needed = _rows_needed(gate.min, lambda marks: int((marks < 1).sum()), rows, gate.confidence)
            doubt = _doubt(verdict, gate, (low, high), score["n"], needed)
            findings.append(_Finding(verdict, f"{value} at least {gate.min:.4g}{doubt}"))
        if gate.max is not None:
            # value <= max is -value >= -max, and bounds change places
            verdict = _verdict(_negative(high), _negative(low), -gate.max, strict=False)
            needed = _rows_needed(1 - gate.max, lambda marks: int((marks > 0).sum()), rows, gate.confidence)
            doubt = _doubt(verdict, gate, (low, high), score["n"], needed)
            findings.append(_Finding(verdict, f"{value} at most {gate.max:.4g}{doubt}"))
        return findings

    def _gain_limits(self, gate: Gate) -> list[_Finding]:
        peer = self._best_prompted(gate) if gate.vs == BEST_PROMPTED else gate.vs
        if peer is None:
            return [_Finding("not_run", f"{gate.metric} of a prompted arm was not measured")]
        score, against = self._score(gate, gate.arm), self._score(gate, peer)
        if score is None or against is None:
            return [_not_run(gate, gate.arm if score is None else peer)]
        gain = self._sign(gate) * (score["value"] - against["value"])  # of a loss, a fall is a gain
        low, high = self._gain_bounds(gate, peer, gain)
        measured, findings = f"{gate.arm}: {gate.metric}", []
        if gate.min_gain is not None:
            verdict = _verdict(low, high, gate.min_gain, strict=gate.confidence is not None)
            gains = f"{measured} gains {gain:.4g} over {peer} against at least {gate.min_gain:.4g}"
            findings.append(_Finding(verdict, gains + _doubt(verdict, gate, (low, high), score["n"])))
        if gate.max_drop is not None:
            verdict = _verdict(low, high, -gate.max_drop, strict=gate.confidence is not None)
            drops = f"{measured} drops {-gain:.4g} under {peer} against at most {gate.max_drop:.4g}"
            findings.append(_Finding(verdict, drops + _doubt(verdict, gate, (low, high), score["n"])))
        return findings

    def _sign(self, gate: Gate) -> int:
        """Return -1 where less is better: gains count upwards."""
        return -1 if gate.metric in self.lower_is_better else 1

    def _value_bounds(self, gate: Gate, rows: Evidence | None, score: Score) -> Bounds:
        if gate.confidence is None:
            return score["value"], score["value"]
        if rows is not None and len(rows.values):
            return value_bounds(rows, self.seed, gate.confidence)
        return _interval(score, gate.confidence)

    def _gain_bounds(self, gate: Gate, peer: str, gain: float) -> Bounds:
        """Return bounds of the gain, where more is better whatever the metric."""
        if gate.confidence is None:
            return gain, gain
        first, second = self.lookup(gate.arm, gate), self.lookup(peer, gate)
        if first is not None and second is not None and len(first.values):
            low, high = difference_bounds(first, second, self.seed, gate.confidence)
        else:
            comparison = self._comparison(gate, peer)
            low, high = _interval(comparison, gate.confidence) if comparison else (None, None)
        return (low, high) if self._sign(gate) == 1 else (_negative(high), _negative(low))

    def _comparison(self, gate: Gate, peer: str) -> ArmComparison | None:
        """Find the written comparison of the judged arm with a peer; slices have none."""
        if gate.slice:
            return None
        suite = (self.scores.get("suites") or {}).get(gate.suite) if gate.suite else None
        comparisons = suite["comparisons"] if suite else [] if gate.suite else self.scores.get("comparisons", [])
        pair = (gate.arm, peer, gate.metric)
        return next((entry for entry in comparisons if (entry["arm"], entry["vs"], entry["metric"]) == pair), None)

    def _best_prompted(self, gate: Gate) -> str | None:
        """Return the prompted arm with the best value."""
        scores = {arm: score for arm in self.prompted if (score := self._score(gate, arm)) is not None}
        return max(scores, key=lambda arm: self._sign(gate) * scores[arm]["value"]) if scores else None

    def _score(self, gate: Gate, arm: str) -> Score | None:
        """Find the score that a gate is about."""
        score = self._arms(gate).get(arm, {}).get(gate.metric)
        if score is None and gate.suite is None and gate.slice is None:
            score = self._retention_score(gate.metric, arm)
        return score if score is not None and score.get("value") is not None else None

    def _arms(self, gate: Gate) -> Mapping[str, Mapping[str, Score]]:
        """Return the scores of the suite or slice that a gate looks at, else of all held-out rows."""
        if gate.suite is not None:
            suite = (self.scores.get("suites") or {}).get(gate.suite)
            return suite.get("arms", {}) if suite else {}
        if gate.slice is None:
            return self.scores.get("arms", {})
        (name, value), *_ = gate.slice.items()  # a gate has one
        part = (self.scores.get("slices") or {}).get(name, {}).get(value)
        return part["arms"] if part else {}

    def _retention_score(self, metric: str, arm: str) -> Score | None:
        retention = self.scores.get("retention")
        if not retention:
            return None
        rates: tuple[Rate, ...] = get_args(Rate)
        by_arm = {rate: retention[rate] for rate in rates if rate in retention}
        if metric in by_arm:
            return by_arm[metric].get(arm)
        # kl and loss_change look at the tuned model alone
        figures = {"kl": retention.get("kl"), "loss_change": retention.get("loss_change")}
        return figures.get(metric) if arm == "tuned" else None


def _scope(gate: Gate) -> str:
    if gate.suite is not None:
        return f"suite {gate.suite}: "
    return "".join(f"{name} {value}: " for name, value in (gate.slice or {}).items())


def _interval(score: Score | ArmComparison, confidence: float) -> Bounds:
    """Use a 95 % interval, each end of which is a one-sided bound at 97.5 %."""
    return (score.get("low"), score.get("high")) if confidence <= INTERVAL_CONFIDENCE else (None, None)


def _verdict(low: float | None, high: float | None, limit: float, *, strict: bool) -> GateVerdict:
    """Compare bounds with a lower limit; `strict` asks for more than the limit, as a gain of exactly 0 is none.

    Example: bounds from 0.7 to 0.9.
        >>> [_verdict(0.7, 0.9, limit, strict=False) for limit in (0.7, 0.8, 0.95)]
        ['pass', 'insufficient_evidence', 'fail']
    """
    if low is not None and (low > limit if strict else low >= limit - EPSILON):
        return "pass"
    return "fail" if high is not None and high < limit - EPSILON else "insufficient_evidence"


def _doubt(verdict: GateVerdict, gate: Gate, bounds: Bounds, n: int, needed: str = "") -> str:
    """Say how sure the rows make it, and what would settle it."""
    if gate.confidence is None:
        return ""
    if bounds == (None, None):
        return f" ({n} measured, no interval): set `confidence: null` on the gate to compare the value itself"
    ends = " to ".join("unknown" if end is None else f"{end:.4g}" for end in bounds)
    too_few = f": too few rows to tell{needed}" if verdict == "insufficient_evidence" else ""
    return f" (at {gate.confidence * 100:g} % confidence {ends}, {n} rows){too_few}"


def _rows_needed(
    rate: float, failures: Callable[[Floats], int], rows: Evidence | None, confidence: float | None
) -> str:
    """Say how many rows would prove a share; nothing where the metric is no share."""
    if rows is None or rows.kind != "share" or confidence is None or not 0 < rate < 1:
        return ""
    num_failures = failures(rows.values)
    clean = f"; {rows_needed(rate, 0, confidence=confidence):,} rows without a failure would show it"
    with_failures = f", {rows_needed(rate, num_failures, confidence=confidence):,} with {num_failures}"
    return clean + (with_failures if num_failures else "")


def _not_run(gate: Gate, arm: str) -> _Finding:
    return _Finding("not_run", f"{gate.metric} of {arm} was not measured")


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
