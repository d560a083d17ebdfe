"""Line up all arms side by side: by metric, by slice of the rows, by suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.render.metrics import OPERATIONAL, MetricDisplay, metric_of
from trainer.render.numbers import count_of
from trainer.render.scores.rows import finite_score, ordered_metrics
from trainer.shapes.scores import Score, Scores, SuiteScores

MAX_QUALITY = 4
"""Quality metrics in a table of arms; all of them stand in eval/scores.json."""
SHOWN_COSTS = ("prompt_tokens", "answer_tokens", "latency_p50_s", "latency_p95_s")


@dataclass(frozen=True)
class ArmTable:
    """Arms as rows, metrics as columns."""

    metrics: list[MetricDisplay]
    lines: list[tuple[str, list[Score | None]]]


def arm_table(scores: Scores, *, max_quality: int = MAX_QUALITY) -> ArmTable:
    """Line up all arms by the first quality metrics and by what an answer takes."""
    measured = ordered_metrics(scores, scores["arms"])
    metrics = [metric for metric in measured if metric.key not in OPERATIONAL][:max_quality]
    metrics += [metric for metric in measured if metric.key in SHOWN_COSTS]
    lines = [
        (_arm_label(scores, arm), [finite_score(values.get(metric.key)) for metric in metrics])
        for arm, values in scores["arms"].items()
    ]
    return ArmTable(metrics, lines)


def _arm_label(scores: Scores, arm: str) -> str:
    """Name an arm together with its retriever: another retriever is another arm."""
    retriever = scores["facts"].get(arm, {}).get("retriever")
    return f"{arm} ({retriever})" if retriever else arm


@dataclass(frozen=True)
class SliceTable:
    """One field of the rows: its values as rows, arms as columns, by the primary metric."""

    field: str
    metric: MetricDisplay
    arms: list[str]
    lines: list[tuple[str, int, list[Score | None]]]


def slice_tables(scores: Scores) -> list[SliceTable]:
    """Line up the primary metric of every slice, the values with most rows first."""
    arms, primary = list(scores["arms"]), scores["primary"]
    tables = []
    for field, values in scores["slices"].items():
        lines = [
            (value, entry["n"], [finite_score(entry["arms"].get(arm, {}).get(primary)) for arm in arms])
            for value, entry in sorted(values.items(), key=lambda item: (-item[1]["n"], item[0]))
        ]
        tables.append(SliceTable(field, metric_of(primary, scores["metrics"]), arms, lines))
    return tables


@dataclass(frozen=True)
class SuiteTable:
    """One suite: metrics as rows, arms as columns."""

    name: str
    num_items: int
    must_pass: bool
    arms: list[str]
    lines: list[tuple[MetricDisplay, list[Score | None]]]


def suite_tables(suites: Mapping[str, SuiteScores]) -> list[SuiteTable]:
    """Line up every suite of eval/scores.json."""
    return [_suite_table(name, suite) for name, suite in suites.items()]


def _suite_table(name: str, suite: SuiteScores) -> SuiteTable:
    arms = suite["arms"]
    lines = [
        (metric_of(key, suite["metrics"]), [finite_score(values.get(key)) for values in arms.values()])
        for key in dict.fromkeys(key for values in arms.values() for key in values)
    ]
    return SuiteTable(name, suite["n"], suite["must_pass"], list(arms), lines)


def comparison_sentences(scores: Scores) -> list[str]:
    """Return the sentences of the comparisons by the primary metric."""
    return [entry["sentence"] for entry in scores["comparisons"] if entry["metric"] == scores["primary"]]


def retention_sentences(scores: Scores) -> list[str]:
    """Say how far tuning moved the model away from its base on general prompts."""
    retention = scores["retention"]
    if retention is None:
        return []
    kl, change = finite_score(retention.get("kl")), finite_score(retention.get("loss_change"))
    if kl is None or change is None:
        return []
    return [
        f"On {count_of(kl['n'], 'general prompt')} the tuned model differs from its base by {kl['value']:.3f} nats a "
        f"token (KL divergence) and finds the base's own answers {_write_change(change['value'])}."
    ]


def _write_change(change: float) -> str:
    """Say in which direction a change of the loss goes; a negative one is no "less likely"."""
    return f"{abs(change):.3f} nats a token {'less' if change >= 0 else 'more'} likely"
