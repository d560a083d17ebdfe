"""State how each metric is measured: its shape, its range, its layer and which way is good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.recipe.metrics import Confidence, Grader, JsonFields, LlmJudge, SemanticSimilarity
from trainer.scoring.habits import HABITS
from trainer.scoring.statistics.measurements import Kind
from trainer.shapes.gates import Layer

Shape = Kind | Literal["figure", "unbounded"]
"""How a metric is measured; figure: once, without an interval; unbounded: values of which none is the best."""


@dataclass(frozen=True)
class Range:
    """All values that a metric can have.

    Example:
        >>> 0 in Range(0, has_low=False), 0.5 in SHARE, str(SHARE)
        (False, True, 'from 0 to 1')
    """

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


# the ranges decide which limits `check` takes: a limit outside could never pass, or never fail
ANY, SHARE, POSITIVE = Range(), Range(0, 1), Range(0, has_low=False)
RUBRIC = Range(0, 1, is_rubric=True)


@dataclass(frozen=True)
class MetricTraits:
    """How a metric is measured and judged."""

    shape: Shape
    range: Range = ANY
    lower_is_better: bool = False
    layer: Layer = "task"
    level: float = 0.5
    """Of a quantile."""


RATES = ("format_leak_rate", *HABITS)
"""Shares of the general prompts, one per arm."""
MEASURED = {
    "loss": MetricTraits("unbounded", POSITIVE, lower_is_better=True),
    "perplexity": MetricTraits("unbounded", Range(1), lower_is_better=True),
    "preference_accuracy": MetricTraits("share", SHARE),
    "preference_margin": MetricTraits("unbounded"),
    "latency_p50_s": MetricTraits("quantile", POSITIVE, True, "operations"),
    "latency_p95_s": MetricTraits("quantile", POSITIVE, True, "operations", level=0.95),
    "ttft_p50_s": MetricTraits("quantile", POSITIVE, True, "operations"),
    "throughput_rps": MetricTraits("figure", POSITIVE, layer="operations"),
    "prompt_tokens": MetricTraits("unbounded", POSITIVE, True, "operations"),
    "answer_tokens": MetricTraits("unbounded", POSITIVE, True, "operations"),
    "peak_memory_gib": MetricTraits("figure", POSITIVE, True, "operations"),
    "clean_stop": MetricTraits("share", SHARE, layer="operations"),
    "kl": MetricTraits("unbounded", Range(0), True, "retention"),
    "loss_change": MetricTraits("unbounded", ANY, True, "retention"),
    **{rate: MetricTraits("share", SHARE, True, "retention") for rate in RATES},
}
"""Metrics that no grader marks, in the order in which they are shown."""
OPERATIONS = tuple(name for name, traits in MEASURED.items() if traits.layer == "operations")
"""Metrics of running a model."""
LOWER_IS_BETTER = frozenset(name for name, traits in MEASURED.items() if traits.lower_is_better)
HARNESS_SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"})
"""Metrics of lm-evaluation-harness with marks of 0 or 1."""
HARNESS_RANGES = {
    "bits_per_byte": POSITIVE,
    **dict.fromkeys(("word_perplexity", "byte_perplexity"), Range(1)),
    **dict.fromkeys(HARNESS_SHARES, SHARE),
}


def grader_shape(grader: Grader) -> Shape:
    """Return how the marks of a grader are measured: a rubric goes from 1 to 5, a cosine below 0."""
    match grader:
        # a sum over bins of answers: no row has a value of its own
        case Confidence() if grader.measure == "ece":
            return "unbounded"
        case LlmJudge() if grader.mode == "rubric":
            return "unbounded"
        case SemanticSimilarity():
            return "unbounded"
        # hits of all rows together: 2 TP / (2 TP + FP + FN), not a mean over rows
        case JsonFields() if grader.average == "micro":
            return "f1"
        case _:
            return "share" if grader.is_share else "mean"


def traits_of(metric: str, graders: Mapping[str, Grader]) -> MetricTraits | None:
    """Return the traits of a metric of the held-out rows; None where nothing measures it."""
    if metric in MEASURED or metric not in graders:
        return MEASURED.get(metric)
    grader = graders[metric]
    is_rubric = isinstance(grader, LlmJudge) and grader.mode == "rubric"
    return MetricTraits(grader_shape(grader), RUBRIC if is_rubric else SHARE, not grader.higher_is_better)


def task_range(metric: str) -> Range:
    """Return the range of a metric that only tasks know: TASK.METRIC, or TASK.METRIC.FILTER, of the harness."""
    for name in (metric, *metric.split(".")[1:]):
        if name in HARNESS_RANGES:
            return HARNESS_RANGES[name]
        if name in MEASURED:
            return MEASURED[name].range
    return ANY
