"""Tell which limits of a gate lie outside what its metric can be: no answers could make them true or false."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.recipe.gates import Gate
from trainer.recipe.metrics import Grader, LlmJudge
from trainer.scoring.gates.judge import OPERATIONS, RATES

HARNESS_SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"})
"""Metrics of lm-evaluation-harness whose marks are 0 or 1."""


@dataclass(frozen=True)
class Range:
    """All values that a metric can have."""

    low: float = -math.inf
    high: float = math.inf
    has_low: bool = True
    """Whether `low` itself is one of them."""
    is_rubric: bool = False
    """Whether a judge's marks of 1 to 5 stand behind it."""

    def __contains__(self, value: float) -> bool:
        return (value >= self.low if self.has_low else value > self.low) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low:g} to {self.high:g}"
        return f"{self.low:g} or more" if self.has_low else f"above {self.low:g}"


ANY, SHARE = Range(), Range(0, 1)
RUBRIC = Range(0, 1, is_rubric=True)
RANGES = {
    frozenset({"clean_stop", "preference_accuracy", *RATES, *HARNESS_SHARES}): SHARE,
    frozenset({"loss", "bits_per_byte", *OPERATIONS} - {"clean_stop"}): Range(0, has_low=False),
    frozenset({"perplexity", "word_perplexity", "byte_perplexity"}): Range(1),
    frozenset({"kl"}): Range(0),
}
"""Metrics that are no grader's; all others can have any value."""


def range_of(metric: str, graders: Mapping[str, Grader]) -> Range:
    """Return the range of a metric that something measures, be it of the held-out rows or of a suite.

    Graders mark from 0 to 1, a rubric's 1 to 5 included.
    """
    if metric in graders:
        grader = graders[metric]
        return RUBRIC if isinstance(grader, LlmJudge) and grader.mode == "rubric" else SHARE
    for name in (metric, *metric.split(".")[1:]):  # TASK.METRIC, or TASK.METRIC.FILTER, of the harness
        for names, values in RANGES.items():
            if name in names:
                return values
    return ANY


def out_of_range(gate: Gate, values: Range) -> str | None:
    """Return which limit of a gate no value of its metric can decide, and why; None where all can be met and missed."""
    for limit in ("min", "max"):
        asked = getattr(gate, limit)
        if asked is not None and asked not in values:
            return f"{gate.metric} {limit} {asked:g}: it is always {values}{_advice(asked, values)}"
    span = values.high - values.low
    for limit in ("min_gain", "max_drop"):
        asked = getattr(gate, limit)
        if asked is not None and abs(asked) > span:
            told = f"it is always {values}, so two arms differ by at most {span:g}"
            return f"{gate.metric} {limit} {asked:g}: {told}{_advice(asked, values)}"
    return None


def _advice(asked: float, values: Range) -> str:
    if values.is_rubric:
        return "; a judge's mark of 4 from 1 to 5 counts as 0.75"
    return f"; {asked:g} % is {asked / 100:g}" if values == SHARE and 1 < asked <= 100 else ""
