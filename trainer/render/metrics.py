"""Which metrics there are, how each is written, and whether tuned beats base; shared by report, card and terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from trainer.render.format import DASH, MINUS, finite, title_of

SIGNIFICANT = 0.05
Unit = Literal["share", "nats", "seconds", "number", "gib", "tokens"]
Standing = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class MetricDisplay:
    """Name, unit and good direction of one metric; `better` is None where neither direction is known to be good."""

    key: str
    title: str
    unit: Unit
    better: Literal["higher", "lower"] | None


METRICS = {
    metric.key: metric
    for metric in (
        MetricDisplay("exact_match", "exact match", "share", "higher"),
        MetricDisplay("preference_accuracy", "preference accuracy", "share", "higher"),
        MetricDisplay("preference_margin", "preference margin (nats)", "nats", "higher"),
        MetricDisplay("valid_json", "valid JSON", "share", "higher"),
        MetricDisplay("loss", "loss (nats/token)", "nats", "lower"),
        MetricDisplay("perplexity", "perplexity", "number", "lower"),
        MetricDisplay("clean_stop", "ended by itself", "share", "higher"),
        MetricDisplay("prompt_tokens", "prompt tokens", "tokens", None),
        MetricDisplay("answer_tokens", "answer tokens", "tokens", None),
        MetricDisplay("latency_p50_s", "latency p50 (s)", "seconds", "lower"),
        MetricDisplay("latency_p95_s", "latency p95 (s)", "seconds", "lower"),
        MetricDisplay("ttft_p50_s", "first token p50 (s)", "seconds", "lower"),
        MetricDisplay("throughput_rps", "requests per second", "number", "higher"),
        MetricDisplay("peak_memory_gib", "peak memory (GiB)", "gib", "lower"),
    )
}
"""In the order of the tables."""
RATES = {
    metric.key: metric
    for metric in (
        MetricDisplay("format_leak_rate", "general prompts answered in the form of the task", "share", "lower"),
        MetricDisplay("refusal_rate", "general prompts refused", "share", "lower"),
        MetricDisplay("other_language_rate", "general prompts answered in another language", "share", "lower"),
        MetricDisplay("same_answer_rate", "general prompts answered like another one", "share", "lower"),
    )
}
"""Shares of general prompts, none of which has to do with the task."""
OPERATIONAL = (
    "prompt_tokens",
    "answer_tokens",
    "latency_p50_s",
    "latency_p95_s",
    "ttft_p50_s",
    "throughput_rps",
    "peak_memory_gib",
)
"""What an answer takes, not how good it is: no verdict rests on it."""


@dataclass(frozen=True)
class Score:
    """One metric of one arm; `low` and `high` bound its interval, None where none was measured."""

    value: float
    low: float | None
    high: float | None
    num_rows: int | None


@dataclass(frozen=True)
class ScoreRow:
    """One line of a scores table: both arms, tuned minus base with its interval, and what that says."""

    metric: MetricDisplay
    base: Score | None
    tuned: Score | None
    difference: float | None
    low: float | None
    high: float | None
    standing: Standing


def metric_of(key: str, scores: Mapping[str, Any] | None = None) -> MetricDisplay:
    """Return the metric called `key`: a known one, or as `scores["metrics"]` describes it.

    Without a description it is a plain number with no good direction.
    """
    if key in METRICS or key in RATES:
        return METRICS.get(key) or RATES[key]
    facts = ((scores or {}).get("metrics") or {}).get(key) or {}
    return MetricDisplay(key, title_of(key), facts.get("unit", "number"), facts.get("better"))


def ordered_metrics(scores: Mapping[str, Any] | None, arms: Iterable[str]) -> list[MetricDisplay]:
    """Return what was measured of some arms: the primary metric, other quality, then what an answer takes."""
    measured = dict.fromkeys(key for arm in arms for key in ((scores or {}).get("arms") or {}).get(arm) or {})
    graders = list((scores or {}).get("metrics") or {})
    order = [(scores or {}).get("primary"), *graders, *METRICS, *measured]
    keys = sorted(measured, key=order.index)
    return [metric_of(key, scores) for key in keys]


def write_value(metric: MetricDisplay, value: float | None) -> str:
    """Write a value in the metric's unit: 84.5%, 0.412; seconds stand in the title."""
    if value is None or finite(value) is None:
        return DASH
    match metric.unit:
        case "share":
            text = f"{value * 100:.1f}%"
        case "nats" | "number":
            text = f"{value:.3f}"
        case "tokens":
            text = f"{value:,.1f}"
        case "seconds" | "gib":
            text = f"{value:.2f}"
        case _:
            assert_never(metric.unit)
    return text.replace("-", MINUS)


def write_difference(metric: MetricDisplay, value: float | None) -> str:
    """Write a signed difference; shares differ in percentage points: +23.5 points."""
    if value is None or finite(value) is None:
        return DASH
    text = f"{value * 100:+.1f} points" if metric.unit == "share" else write_value(metric, value)
    return (text if text[0] in f"+-{MINUS}" else f"+{text}").replace("-", MINUS)


def write_interval(metric: MetricDisplay, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Write an interval without its unit, such as `81.9 to 87.0`; empty where a bound is missing."""
    if low is None or high is None or finite(low) is None or finite(high) is None:
        return ""
    scale, digits = {"share": (100, 1), "seconds": (1, 2), "gib": (1, 2), "tokens": (1, 1)}.get(metric.unit, (1, 3))
    sign = "+" if signed else ""
    return " to ".join(f"{bound * scale:{sign}.{digits}f}" for bound in (low, high)).replace("-", MINUS)


def score_rows(scores: Mapping[str, Any] | None) -> list[ScoreRow]:
    """Line up the arms `base` and `tuned` of eval/scores.json, one row a metric, known metrics first.

    A comparison is read as {"metric", "difference", "low", "high"}, tuned minus base. Where there is none for a metric
    the difference is that of the values, and it is clear only when the intervals of the arms do not overlap.
    """
    arms = (scores or {}).get("arms") or {}
    base, tuned = arms.get("base") or {}, arms.get("tuned") or {}
    comparisons = {
        item.get("metric"): item
        for item in (scores or {}).get("comparisons") or []
        if (item.get("arm", "tuned"), item.get("vs", "base")) == ("tuned", "base")
    }
    rows = (
        score_row(metric, score_of(base.get(metric.key)), score_of(tuned.get(metric.key)), comparisons.get(metric.key))
        for metric in ordered_metrics(scores, ("base", "tuned"))
    )
    return [row for row in rows if row.base or row.tuned]


def verdict(scores: Mapping[str, Any] | None) -> str:
    """Say in one sentence whether tuning helped, by the first quality metric that both arms have."""
    rows = score_rows(scores)
    if not rows:
        return "Not scored yet."
    row = next((row for row in rows if row.difference is not None and row.metric.key not in OPERATIONAL), None)
    if row is None or row.base is None or row.tuned is None:
        return "There is no metric with both a base and a tuned score, so the two cannot be compared."
    name = {"loss": "loss in nats a token"}.get(row.metric.key, row.metric.title)
    numbers = f"{name} {write_value(row.metric, row.tuned.value)} against {write_value(row.metric, row.base.value)}"
    interval = write_interval(row.metric, row.low, row.high, signed=True)
    gain = write_difference(row.metric, row.difference) + (f" (95% interval {interval})" if interval else "")
    return f"{_OPENING[row.standing]}: {numbers}, {gain}."


_OPENING: dict[Standing, str] = {
    "better": "The tuned model beats the base model",
    "worse": "The tuned model is worse than the base model",
    "unclear": "No clear difference between tuned and base",
}


def score_of(entry: Mapping[str, Any] | None) -> Score | None:
    """Read one entry of eval/scores.json; None where the value is missing or not finite."""
    value = finite((entry or {}).get("value"))
    if entry is None or value is None:
        return None
    num_rows = finite(entry.get("n"))
    return Score(
        value, finite(entry.get("low")), finite(entry.get("high")), None if num_rows is None else int(num_rows)
    )


def score_row(
    metric: MetricDisplay, base: Score | None, tuned: Score | None, comparison: Mapping[str, Any] | None
) -> ScoreRow:
    """Line up two scores with their tested difference, or else the difference of the values.

    A comparison that is one of several is a finding only where its corrected p-value allows it.
    """
    entry = comparison or {}
    difference = finite(entry.get("difference"))
    low, high = finite(entry.get("low")), finite(entry.get("high"))
    if difference is None:
        low, high = None, None
        difference = tuned.value - base.value if base and tuned else None
    standing = _standing(metric, base, tuned, low, high)
    if (finite(entry.get("holm_p_value")) or 0.0) > SIGNIFICANT:
        standing = "unclear"
    return ScoreRow(metric, base, tuned, difference, low, high, standing)


def _standing(
    metric: MetricDisplay, base: Score | None, tuned: Score | None, low: float | None, high: float | None
) -> Standing:
    """Judge by the interval of the difference, else by whether the arms' own intervals are apart."""
    if low is None or high is None:
        if base is None or tuned is None or None in (base.low, base.high, tuned.low, tuned.high):
            return "unclear"
        assert base.low is not None and base.high is not None and tuned.low is not None and tuned.high is not None
        low, high = tuned.low - base.high, tuned.high - base.low
    if metric.better is None or low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == (metric.better == "higher") else "worse"
