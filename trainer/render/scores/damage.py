"""Tell what tuning broke, from eval/scores.json: for the closing table, summary.md, the report and the model card.

Damage is what is shown: the interval of tuned minus base lies wholly on the bad side. What was measured is named too,
so that silence is never taken for health.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.render.metrics import OPERATIONAL, RATES, MetricDisplay, metric_of, write_value
from trainer.render.numbers import count_of
from trainer.render.scores.rows import ScoreRow, finite_score, score_row, score_rows, tuned_against_base
from trainer.shapes.scores import Scores, SuiteScores

MONOTONOUS = 0.5
"""Share of the held-out rows with one and the same answer that counts as damage, where it is twice what is right."""


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
        scores = (self.row.tuned, self.row.base)
        tuned, base = (write_value(self.row.metric, score["value"] if score else None) for score in scores)
        return f"{self.title}: {tuned} against {base} of the base, {self.row.gain}"


def damages(scores: Scores) -> list[Damage]:
    """Return what tuning broke, the habits on general prompts first; empty where nothing is shown."""
    if "tuned" not in scores["arms"]:
        return []
    outside = (measure for measure in outside_measures(scores) if measure.is_shown)
    return [*_constant_damages(scores), *outside, *_heldout_damages(scores)]


def prompts_and_suites(scores: Scores) -> list[str]:
    """Return what was measured outside the task, such as `32 general prompts`."""
    retention = scores["retention"]
    measured = []
    if retention is not None:
        measured = [retention.get(rate, {}).get("tuned") for rate in RATES]
        measured += [retention.get("kl"), retention.get("loss_change")]
    prompts = max((score["n"] for score in map(finite_score, measured) if score), default=0)
    suites = [
        f"suite {name} ({count_of(suite['n'], 'item')})"
        for name, suite in scores["suites"].items()
        if "tuned" in suite["arms"]
    ]
    return ([count_of(prompts, "general prompt")] if prompts else []) + suites


def damage_summary(scores: Scores) -> str:
    """Say in one sentence how much is broken, what was looked at, or that nothing was."""
    measured, broken = ", ".join(prompts_and_suites(scores)), damages(scores)
    if broken:
        return f"{count_of(len(broken), 'sign')} of damage" + (f" (looked at: {measured})" if measured else "")
    if not measured:
        return "What tuning broke outside the task was not measured: eval.suites and eval.retention look at it"
    return f"No damage shown outside the task; looked at: {measured}"


def outside_measures(scores: Scores) -> list[Damage]:
    """Return every habit and every metric of a suite that was measured of the tuned model, broken or not."""
    suites = scores["suites"].items()
    return [*habit_measures(scores), *(measure for name, suite in suites for measure in _suite_measures(name, suite))]


def habit_measures(scores: Scores) -> Iterator[Damage]:
    """Yield every habit that was measured of the tuned model, broken or not."""
    retention = scores["retention"]
    if retention is None:
        return
    comparisons = tuned_against_base(retention["comparisons"])
    for rate, metric in RATES.items():
        arms = retention.get(rate, {})
        row = score_row(metric, arms.get("base"), arms.get("tuned"), comparisons.get(rate))
        if row.tuned is not None:
            yield Damage(metric.title, row)


def _suite_measures(name: str, suite: SuiteScores) -> Iterator[Damage]:
    base, comparisons = suite["arms"].get("base", {}), tuned_against_base(suite["comparisons"])
    for key, score in suite["arms"].get("tuned", {}).items():
        if key not in OPERATIONAL:
            metric = metric_of(key, suite["metrics"])
            row = score_row(metric, base.get(key), score, comparisons.get(key))
            yield Damage(f"suite {name}: {metric.title}", row, _must_pass_note(suite, row))


def _must_pass_note(suite: SuiteScores, row: ScoreRow) -> str:
    """Say that a suite of which every item must pass has a wrong one; empty where the difference says enough."""
    if not suite["must_pass"] or row.standing == "worse" or row.metric.unit != "share":
        return ""
    if row.tuned is None or row.tuned["value"] >= 1 or row.metric.key == "clean_stop":
        return ""
    return f"{write_value(row.metric, row.tuned['value'])} right, and every item must pass"


def _heldout_damages(scores: Scores) -> Iterator[Damage]:
    """Yield the metrics of the held-out rows that fell, but for the deciding one: that is the verdict itself."""
    for row in score_rows(scores):
        if row.standing == "worse" and row.metric.key not in (*OPERATIONAL, scores["primary"]):
            yield Damage(f"held-out rows: {row.metric.title}", row)


def _constant_damages(scores: Scores) -> Iterator[Damage]:
    """Yield that one answer to everything would do better, or that the tuned model gives little else."""
    constant = constant_row(scores)
    if constant is not None and constant.difference is not None and constant.difference < 0:
        right, tuned = (write_value(constant.metric, value) for value in (constant.value, constant.tuned))
        note = f"right in {right}, the tuned model in {tuned}"
        yield Damage(f"always answering “{constant.text}”", _row_without_scores(constant.metric), note)
    answer, reference = scores["facts"].get("tuned", {}).get("most_frequent_answer"), scores["most_frequent_answer"]
    if answer is not None and answer["share"] > max(MONOTONOUS, 2 * reference["exact_match"] if reference else 0.0):
        note = f"the tuned model answers “{_shortened(answer['text'])}” to {answer['share']:.1%} of them"
        yield Damage("held-out rows", _row_without_scores(metric_of("exact_match", scores["metrics"])), note)


@dataclass(frozen=True)
class ConstantRow:
    """The score of answering the most frequent reference to every row, beside that of the tuned model."""

    text: str
    metric: MetricDisplay
    value: float
    tuned: float | None
    difference: float | None
    """Tuned minus constant."""


def constant_row(scores: Scores) -> ConstantRow | None:
    """Return what one answer to everything would reach; None where no reference repeats.

    Where exact match was not measured it stands beside the deciding share, which is never stricter.
    """
    reference = scores["most_frequent_answer"]
    if reference is None:
        return None
    measured, value = scores["arms"].get("tuned", {}), reference["exact_match"]
    primary = metric_of(scores["primary"], scores["metrics"])
    is_primary = "exact_match" not in measured and primary.unit == "share" and primary.better == "higher"
    metric = primary if is_primary else metric_of("exact_match", scores["metrics"])
    score = finite_score(measured.get(metric.key))
    tuned = score["value"] if score else None
    return ConstantRow(_shortened(reference["text"]), metric, value, tuned, None if tuned is None else tuned - value)


def _shortened(text: str, limit: int = 40) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def _row_without_scores(metric: MetricDisplay) -> ScoreRow:
    return ScoreRow(metric, None, None, None, None, None, "worse")
