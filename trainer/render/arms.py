"""All arms side by side: one line an arm, for the report, the card and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.render.format import count_of
from trainer.render.metrics import OPERATIONAL, MetricDisplay, Score, metric_of, ordered_metrics, score_of

MAX_QUALITY = 4
"""Quality metrics in a table of arms; all of them stand in eval/scores.json."""
SHOWN_COSTS = ("prompt_tokens", "answer_tokens", "latency_p50_s", "latency_p95_s")


@dataclass(frozen=True)
class ArmTable:
    """Arms as rows, metrics as columns."""

    metrics: list[MetricDisplay]
    lines: list[tuple[str, list[Score | None]]]


def arm_table(scores: Mapping[str, Any] | None, *, max_quality: int = MAX_QUALITY) -> ArmTable:
    """Line up all arms of eval/scores.json by the first quality metrics and what an answer takes."""
    arms = (scores or {}).get("arms") or {}
    found = ordered_metrics(scores, arms)
    quality = [metric for metric in found if metric.key not in OPERATIONAL][:max_quality]
    metrics = quality + [metric for metric in found if metric.key in SHOWN_COSTS]
    lines = [
        (arm_label(scores or {}, arm), [score_of(measured.get(metric.key)) for metric in metrics])
        for arm, measured in arms.items()
    ]
    return ArmTable(metrics, lines)


def arm_label(scores: Mapping[str, Any], arm: str) -> str:
    """Name an arm together with what found its examples or passages: another retriever is another arm."""
    retriever = ((scores.get("facts") or {}).get(arm) or {}).get("retriever")
    return f"{arm} ({retriever})" if retriever else arm


@dataclass(frozen=True)
class SliceTable:
    """One field of the rows: its values as rows, arms as columns, by the primary metric."""

    field: str
    metric: MetricDisplay
    arms: list[str]
    lines: list[tuple[str, int, list[Score | None]]]


def slice_tables(scores: Mapping[str, Any] | None) -> list[SliceTable]:
    """Line up the primary metric of every slice, the values with most rows first."""
    primary = (scores or {}).get("primary")
    if scores is None or primary is None:
        return []
    arms = list(scores["arms"])
    tables = []
    for field, values in (scores.get("slices") or {}).items():
        lines = [
            (value, entry["n"], [score_of((entry["arms"].get(arm) or {}).get(primary)) for arm in arms])
            for value, entry in sorted(values.items(), key=lambda item: (-item[1]["n"], item[0]))
        ]
        tables.append(SliceTable(field, metric_of(primary, scores), arms, lines))
    return tables


@dataclass(frozen=True)
class SuiteTable:
    """One suite: metrics as rows, arms as columns."""

    name: str
    num_items: int
    must_pass: bool
    arms: list[str]
    lines: list[tuple[MetricDisplay, list[Score | None]]]


def suite_tables(scores: Mapping[str, Any] | None) -> list[SuiteTable]:
    """Line up every suite that was run."""
    tables = []
    for name, suite in ((scores or {}).get("suites") or {}).items():
        arms = list(suite["arms"])
        keys = dict.fromkeys(key for arm in arms for key in suite["arms"][arm])
        lines = [(metric_of(key, suite), [score_of(suite["arms"][arm].get(key)) for arm in arms]) for key in keys]
        tables.append(SuiteTable(name, suite["n"], bool(suite.get("must_pass")), arms, lines))
    return tables


def comparison_sentences(scores: Mapping[str, Any] | None) -> list[str]:
    """Return what the comparisons of the primary metric say in words."""
    primary = (scores or {}).get("primary")
    found = (item for item in (scores or {}).get("comparisons") or [] if item.get("metric") == primary)
    return [item["sentence"] for item in found if item.get("sentence")]


def retention_sentences(scores: Mapping[str, Any] | None) -> list[str]:
    """Say how far tuning moved the model away from its base on general prompts."""
    facts = (scores or {}).get("retention") or {}
    said = []
    kl, change = score_of(facts.get("kl")), score_of(facts.get("loss_change"))
    if kl is not None and change is not None:
        asked = count_of(kl.num_rows or 0, "general prompt")
        said.append(
            f"On {asked} the tuned model differs from its base by {kl.value:.3f} nats a token "
            f"(KL divergence) and finds the base's own answers {_less_likely(change.value)}."
        )
    return said


def _less_likely(change: float) -> str:
    """Say in which direction a change of the loss goes; a negative one is no "less likely"."""
    return f"{abs(change):.3f} nats a token {'less' if change >= 0 else 'more'} likely"
