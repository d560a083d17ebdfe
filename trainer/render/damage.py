"""Tells what tuning broke, from eval/scores.json: for the closing table, summary.md, the report and the model card.

Damage is what is shown: the interval of tuned minus base lies wholly on the bad side. What was looked at is named too,
so that silence is never taken for health.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.render.format import count_of, finite
from trainer.render.metrics import (
    OPERATIONAL,
    RATES,
    MetricDisplay,
    Score,
    ScoreRow,
    metric_of,
    score_of,
    score_row,
    score_rows,
    write_difference,
    write_interval,
    write_value,
)

MONOTONOUS = 0.5
"""Share of the held-out rows with one and the same answer that counts as damage, where it is twice what is right."""
Scores = Mapping[str, Any]


@dataclass(frozen=True)
class Damage:
    """One measure of what tuning may have broken; shown where it is worse than it was."""

    title: str
    row: ScoreRow
    """Base, tuned and their difference."""
    note: str = ""
    """What the numbers do not say."""

    @property
    def is_shown(self) -> bool:
        """Tell whether it is damage, not only a measure of it."""
        return bool(self.note) or self.row.standing == "worse"

    @property
    def sentence(self) -> str:
        """Return it in words: `general prompts refused: 93.8% against 0.0%, +93.8 points (+80.1 to +98.3)`."""
        if self.note:
            return f"{self.title}: {self.note}"
        metric, tuned, base = self.row.metric, self.row.tuned, self.row.base
        values = [write_value(metric, score.value if score else None) for score in (tuned, base)]
        interval = write_interval(metric, self.row.low, self.row.high, signed=True)
        gain = write_difference(metric, self.row.difference) + (f" ({interval})" if interval else "")
        return f"{self.title}: {values[0]} against {values[1]} of the base, {gain}"


def damages(scores: Scores | None) -> list[Damage]:
    """Return what tuning broke, the habits on general prompts first; empty where nothing is shown."""
    if not scores or "tuned" not in (scores.get("arms") or {}):
        return []
    outside = (one for one in (*habit_measures(scores), *suite_measures(scores)) if one.is_shown)
    return [*_constant(scores), *outside, *_heldout(scores)]


def looked_at(scores: Scores | None) -> list[str]:
    """Return what was measured outside the task, such as `32 general prompts`."""
    facts = (scores or {}).get("retention") or {}
    counts = [score.num_rows for key in RATES if (score := score_of((facts.get(key) or {}).get("tuned")))]
    counts += [score.num_rows for key in ("kl", "loss_change") if (score := score_of(facts.get(key)))]
    prompts = max((count for count in counts if count), default=0)
    suites = [
        f"suite {name} ({count_of(suite['n'], 'item')})"
        for name, suite in ((scores or {}).get("suites") or {}).items()
        if "tuned" in suite["arms"]
    ]
    return ([count_of(prompts, "general prompt")] if prompts else []) + suites


def damage_summary(scores: Scores | None) -> str:
    """Say in one sentence how much is broken, what was looked at, or that nothing was."""
    measured, broken = looked_at(scores), damages(scores)
    where = ", ".join(measured)
    if broken:
        return f"{count_of(len(broken), 'sign')} of damage" + (f" (looked at: {where})" if where else "")
    if not measured:
        return "What tuning broke outside the task was not measured: eval.suites and eval.retention look at it"
    return f"No damage shown outside the task; looked at: {where}"


def habit_measures(scores: Scores | None) -> Iterator[Damage]:
    """Yield every habit that was measured of the tuned model, broken or not."""
    facts = (scores or {}).get("retention") or {}
    for key in RATES:
        arms = facts.get(key) or {}
        tuned = score_of(arms.get("tuned"))
        if tuned is not None:
            yield Damage(RATES[key].title, _row(RATES[key], arms, _tuned_against_base(facts).get(key)))


def suite_measures(scores: Scores | None) -> Iterator[Damage]:
    """Yield every metric of every suite that the tuned model was asked, broken or not."""
    for name, suite in ((scores or {}).get("suites") or {}).items():
        compared = _tuned_against_base(suite)
        for key in suite["arms"].get("tuned") or {}:
            metric = metric_of(key, suite)
            if key in OPERATIONAL:
                continue
            row = _row(metric, {arm: entries.get(key) for arm, entries in suite["arms"].items()}, compared.get(key))
            yield Damage(f"suite {name}: {metric.title}", row, _must_pass(suite, row))


def _must_pass(suite: Mapping[str, Any], row: ScoreRow) -> str:
    """Say that a suite of which every item must pass has a wrong one; empty where the difference says enough."""
    if not suite.get("must_pass") or row.standing == "worse" or row.metric.unit != "share":
        return ""
    if row.tuned is None or row.tuned.value >= 1 or row.metric.key == "clean_stop":
        return ""
    return f"{write_value(row.metric, row.tuned.value)} right, and every item must pass"


def _heldout(scores: Scores) -> Iterator[Damage]:
    """Yield the metrics of the held-out rows that fell, but for the deciding one: that is the verdict itself."""
    for row in score_rows(scores):
        if row.standing == "worse" and row.metric.key not in (*OPERATIONAL, scores.get("primary")):
            yield Damage(f"held-out rows: {row.metric.title}", row)


def _constant(scores: Scores) -> Iterator[Damage]:
    """Yield that one answer to everything would do better, or that the tuned model gives little else."""
    constant = constant_row(scores)
    if constant is not None and constant.difference is not None and constant.difference < 0:
        values = [write_value(constant.metric, value) for value in (constant.constant.value, constant.tuned)]
        note = f"right in {values[0]}, the tuned model in {values[1]}"
        yield Damage(f"always answering “{constant.text}”", _bare(constant.metric), note)
    commonest = ((scores.get("facts") or {}).get("tuned") or {}).get("most_frequent_answer") or {}
    share, right = finite(commonest.get("share")), (scores.get("most_frequent_answer") or {}).get("exact_match") or 0.0
    if share is not None and share > MONOTONOUS and share > 2 * right:
        note = f"the tuned model answers “{_short(commonest['text'])}” to {share:.1%} of them"
        yield Damage("held-out rows", _bare(metric_of("exact_match")), note)


@dataclass(frozen=True)
class ConstantRow:
    """The score of answering the most frequent reference to every row, beside that of the tuned model."""

    text: str
    metric: MetricDisplay
    constant: Score
    tuned: float | None
    difference: float | None
    """Tuned minus constant."""


def constant_row(scores: Scores | None) -> ConstantRow | None:
    """Return what one answer to everything would reach; None where no reference repeats.

    Where exact match was not measured it stands beside the deciding share, which is never stricter.
    """
    entry = (scores or {}).get("most_frequent_answer") or {}
    value = finite(entry.get("exact_match"))
    if scores is None or value is None:
        return None
    measured = (scores.get("arms") or {}).get("tuned") or {}
    primary = metric_of(str(scores.get("primary")), scores)
    is_other = "exact_match" not in measured and primary.unit == "share" and primary.better == "higher"
    metric = primary if is_other else metric_of("exact_match", scores)
    tuned = score_of(measured.get(metric.key))
    score = Score(value, None, None, None)
    difference = None if tuned is None else tuned.value - value
    return ConstantRow(_short(str(entry["text"])), metric, score, tuned.value if tuned else None, difference)


def _short(text: str, limit: int = 40) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def _tuned_against_base(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        entry["metric"]: entry
        for entry in facts.get("comparisons") or []
        if (entry.get("arm", "tuned"), entry.get("vs", "base")) == ("tuned", "base")
    }


def _row(metric: MetricDisplay, arms: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> ScoreRow:
    return score_row(metric, score_of(arms.get("base")), score_of(arms.get("tuned")), comparison)


def _bare(metric: MetricDisplay) -> ScoreRow:
    return ScoreRow(metric, None, None, None, None, None, "worse")
