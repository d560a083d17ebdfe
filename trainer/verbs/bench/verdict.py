"""Compute figures from the answers of workers: medians over rounds, use of the machine, reasons against a row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Answer = dict[str, Any]

LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # relative; bfloat16 has 8 bits of mantissa
NORM_TOLERANCE = {"float32": 1e-2, "bfloat16": 1e-1}
FLOPS_PER_WEIGHT = 4  # forward 2, backward of a frozen weight 2


@dataclass
class EngineMeasurements:
    """All answers of one engine."""

    name: str
    text: str
    check: Answer | None = None
    rounds: dict[str, list[Answer]] = field(default_factory=dict)
    """Accounting to the answers of its rounds."""
    kind: str = "native"
    """Which of the engine's types was kept, see `Engine.precisions`."""
    precision: str = "float32"
    """Type that it computes in."""
    error: str | None = None

    @property
    def answers(self) -> list[Answer]:
        """Return the answers of all rounds."""
        return [answer for answers in self.rounds.values() for answer in answers]


def seconds_per_row(answer: Answer, accounting: str) -> float:
    """Return what one row of an epoch costs, with its share of the reference where that is counted.

    The reference is computed once for each row; the training may take a few rows twice to fill its last step.

    Example:
        12 s for 24 rows, and 5 s for the reference of 20 distinct ones.

        >>> answer = {"seconds": 12.0, "rows": 24, "reference_seconds": 5.0, "distinct_rows": 20}
        >>> seconds_per_row(answer, "counted"), seconds_per_row(answer, "left_out")
        (0.75, 0.5)
    """
    cost = answer["seconds"] / answer["rows"]
    if accounting == "counted":
        cost += answer["reference_seconds"] / answer["distinct_rows"]
    return float(cost)


def rates(answers: list[Answer], accounting: str, *, linear_weights: int, flops: float) -> dict[str, float]:
    """Return rows, tokens and supervised tokens a second, and the share of the machine's matrix products.

    Args:
        answers: Rounds of one engine.
        accounting: Whether the reference is counted.
        linear_weights: Weights in the matrix products of one token.
        flops: What the machine reaches in a large product, operations a second.
    """
    # median over rounds, then rates: a mean would follow one slow round
    rows = 1 / median(seconds_per_row(answer, accounting) for answer in answers)
    first = answers[0]
    tokens = rows * first["tokens"] / first["rows"]
    return {
        "rows_per_s": rows,
        "tokens_per_s": tokens,
        "supervised_tokens_per_s": rows * first["supervised_tokens"] / first["rows"],
        "mfu": FLOPS_PER_WEIGHT * linear_weights * tokens / flops,
    }


def problems(measured: EngineMeasurements, reference: EngineMeasurements) -> list[str]:
    """Return why the figures of an engine do not count; nothing when it has trained what the reference trained."""
    if measured.check is None:
        return [measured.error or "it was not measured"]
    reasons = [*_dead_gradients(measured)]
    if reference.check is None:
        return [*reasons, f"{reference.name} gave nothing to compare with"]
    reasons += _other_work(measured.check, reference.check)
    precision = "bfloat16" if "bfloat16" in (measured.precision, reference.precision) else "float32"
    for name, tolerances in (("losses", LOSS_TOLERANCE), ("grad_norms", NORM_TOLERANCE)):
        worst = deviation(measured.check[name], reference.check[name])
        if not worst <= tolerances[precision]:
            reasons.append(
                f"{name} differ from {reference.name}'s by {worst:.1e}, {tolerances[precision]:.0e} is allowed"
            )
    return reasons


def _dead_gradients(measured: EngineMeasurements) -> list[str]:
    norms = [norm for answer in [measured.check, *measured.answers] if answer for norm in answer["grad_norms"]]
    if not norms or not all(math.isfinite(norm) and norm > 0 for norm in norms):
        return ["a gradient is zero or not finite: it learns nothing"]
    return []


def _other_work(check: Answer, reference: Answer) -> list[str]:
    return [
        f"{check[name]} {name} in the check, {reference[name]} expected"
        for name in ("rows", "tokens", "supervised_tokens")
        if check[name] != reference[name]
    ]


def deviation(values: list[float], expected: list[float]) -> float:
    """Return the largest relative difference; infinite where the number of values differs.

    Example:
        >>> deviation([1.0, 2.0], [1.0, 2.5]), deviation([1.0], [1.0, 2.5])
        (0.2, inf)
    """
    if len(values) != len(expected) or not values:
        return math.inf
    if not all(map(math.isfinite, values)):
        return math.inf
    return max(abs(value - target) / max(abs(target), 1e-12) for value, target in zip(values, expected, strict=True))


def ratios(rates_of: dict[str, dict[str, float]], ours: str, *, rate: str) -> dict[str, float]:
    """Return our rate over that of each other engine; `rate` names the rate."""
    if ours not in rates_of:
        return {}
    return {name: rates_of[ours][rate] / engine_rates[rate] for name, engine_rates in rates_of.items() if name != ours}
