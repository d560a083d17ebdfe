"""Name the metrics, and write their values in their units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

from trainer.render.numbers import DASH, MINUS, finite, title_of
from trainer.shapes.scores import MetricDescription, Rate

Unit = Literal["share", "nats", "seconds", "number", "gib", "tokens"]


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
RATES: dict[Rate, MetricDisplay] = {
    "format_leak_rate": MetricDisplay(
        "format_leak_rate", "general prompts answered in the form of the task", "share", "lower"
    ),
    "refusal_rate": MetricDisplay("refusal_rate", "general prompts refused", "share", "lower"),
    "other_language_rate": MetricDisplay(
        "other_language_rate", "general prompts answered in another language", "share", "lower"
    ),
    "same_answer_rate": MetricDisplay(
        "same_answer_rate", "general prompts answered like another one", "share", "lower"
    ),
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


def metric_of(key: str, descriptions: Mapping[str, MetricDescription]) -> MetricDisplay:
    """Return the metric called `key`: of the table above, else as eval/scores.json describes it.

    Without a description it is a plain number with no good direction.
    """
    if key in METRICS:
        return METRICS[key]
    if key not in descriptions:
        return MetricDisplay(key, title_of(key), "number", None)
    return MetricDisplay(key, title_of(key), descriptions[key]["unit"], descriptions[key]["better"])


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


def with_interval(text: str, interval: str) -> str:
    """Write an interval in brackets behind its value, where there is one."""
    return f"{text} ({interval})" if interval else text
