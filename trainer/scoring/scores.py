"""Write measurements as eval/scores.json, eval/predictions.jsonl and eval/gates.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from trainer.recipe.gates import Gate
from trainer.scoring.gates.judge import judge
from trainer.scoring.graders.calls import Calls, calls_of, read_calls
from trainer.scoring.results import ArmResults, Panel, Selection
from trainer.scoring.statistics.comparisons import corrected_p_values
from trainer.scoring.statistics.measurements import Evidence, difference, score
from trainer.scoring.statistics.wording import comparison_of
from trainer.shapes.gates import GateResult
from trainer.shapes.predictions import AnswerCall, ArmAnswer, Prediction
from trainer.shapes.scores import (
    ArmComparison,
    ArmFacts,
    FrequentReference,
    FrequentText,
    MetricDescription,
    Rate,
    RetentionScores,
    Scores,
    SuiteScores,
)

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class EvalMeasurements:
    """All that the eval stage measured."""

    panel: Panel
    """The held-out rows."""
    suites: Sequence[tuple[str, bool, Panel]]
    """(name, every item must pass, panel)."""
    retention: Mapping[str, Mapping[str, Evidence]]
    """By metric and arm."""
    primary: str
    heldout_rows: int
    slices: Sequence[str]
    """Fields that are scored apart."""


def scores_of(measured: EvalMeasurements) -> Scores:
    """Return eval/scores.json."""
    panel = measured.panel
    return {
        "primary": measured.primary,
        "heldout_rows": measured.heldout_rows,
        "metrics": _descriptions(panel),
        "arms": panel.scores(),
        "facts": {arm: _facts(results) for arm, results in panel.arms.items()},
        "comparisons": panel.comparisons(_pairs(panel)),
        "slices": panel.slices(measured.slices),
        "suites": {name: suite_scores(suite, must_pass) for name, must_pass, suite in measured.suites},
        "retention": _retention(measured.retention, panel.seed),
        "most_frequent_answer": _frequent_reference([question.reference or "" for question in panel.questions]),
    }


def suite_scores(panel: Panel, must_pass: bool) -> SuiteScores:
    """Return what eval/scores.json says about one suite."""
    return {
        "must_pass": must_pass,
        "n": panel.num_items,
        "metrics": _descriptions(panel),
        "arms": panel.scores(),
        "comparisons": panel.comparisons(_pairs(panel)),
    }


def _frequent_reference(references: Sequence[str]) -> FrequentReference | None:
    """Return the best that one constant answer could do on these rows: the score of knowing nothing."""
    frequent = _frequent_text(references)
    return {"text": frequent["text"], "exact_match": frequent["share"]} if frequent else None


def _frequent_text(texts: Sequence[str]) -> FrequentText | None:
    """Return the text that an arm answers most often and the share of questions that get it; None if none repeats.

    Example:
        >>> _frequent_text(["yes", "no", " yes", "no", "yes"])
        {'text': 'yes', 'share': 0.6}
    """
    counts = Counter(text.strip() for text in texts)
    if not counts or max(counts.values()) == 1:
        return None
    text, count = counts.most_common(1)[0]
    return {"text": text[:EXCERPT_CHARACTERS], "share": count / len(texts)}


def _descriptions(panel: Panel) -> dict[str, MetricDescription]:
    """Tell reports how each grader's mark, and each task's, is written and which way is good."""
    tasks: dict[str, MetricDescription] = {
        name: {"unit": "share" if evidence.kind == "share" else "number", "better": "higher"}
        for results in panel.arms.values()
        for name, evidence in results.measured.items()
        if evidence.ids is not None  # only the metrics of tasks name their rows
    }
    f1_metrics = {name for results in panel.arms.values() for name in results.counts}
    return tasks | {
        name: {
            "unit": "share" if grader.is_share or name in f1_metrics else "number",
            "better": "higher" if grader.higher_is_better else "lower",
        }
        for name, grader in panel.graders.items()
    }


def _facts(results: ArmResults) -> ArmFacts:
    if not results.answers:
        return results.facts
    return {
        **results.facts,
        "valid": results.valid(),
        "failures": results.failures(),
        "most_frequent_answer": _frequent_text(results.texts),
    }


def _pairs(panel: Panel) -> list[tuple[str, str]]:
    """Return the arms that are compared: each with base, and the tuned ones with every prompted one."""
    arms = panel.arms
    with_base = [(arm, "base") for arm in arms if arm != "base" and "base" in arms]
    prompted = [arm for arm, results in arms.items() if results.facts.get("prompted")]
    tuned = [arm for arm, results in arms.items() if results.facts.get("model") == "tuned"]
    return with_base + [(arm, peer) for arm in tuned for peer in prompted]


# Forgetting


def _retention(evidence: Mapping[str, Mapping[str, Evidence]], seed: int) -> RetentionScores | None:
    if not evidence:
        return None
    retention: RetentionScores = {"comparisons": _rate_comparisons(evidence, seed)}
    if "kl" in evidence:
        retention["kl"] = score(evidence["kl"]["tuned"], seed)
    if "loss_change" in evidence:
        retention["loss_change"] = score(evidence["loss_change"]["tuned"], seed)
    rates: tuple[Rate, ...] = get_args(Rate)
    for rate in rates:
        if rate in evidence:
            retention[rate] = {arm: score(rows, seed) for arm, rows in evidence[rate].items()}
    return retention


def _rate_comparisons(evidence: Mapping[str, Mapping[str, Evidence]], seed: int) -> list[ArmComparison]:
    """Return tuned minus base of each rate on the same general prompts, corrected for there being several rates."""
    rates = [rate for rate in get_args(Rate) if {"base", "tuned"} <= set(evidence.get(rate) or {})]
    differences = [difference(evidence[rate]["tuned"], evidence[rate]["base"], seed) for rate in rates]
    return [
        comparison_of(entry, "tuned", "base", rate, p_value=p_value, lower_is_better=rates)
        for rate, entry, p_value in zip(rates, differences, corrected_p_values(differences), strict=True)
    ]


# Gates


def judge_gates(
    gates: Sequence[Gate], measured: EvalMeasurements, scores: Scores, prompted: Sequence[str]
) -> list[GateResult]:
    """Return eval/gates.json.

    Args:
        gates: Of the recipe.
        measured: All measurements.
        scores: The same as eval/scores.json.
        prompted: Arms among which `best_prompted` chooses.
    """
    suites = {name: panel for name, _, panel in measured.suites}

    def lookup(arm: str, gate: Gate) -> Evidence | None:
        if gate.suite is None and gate.slice is None and gate.metric in measured.retention:
            return measured.retention[gate.metric].get(arm)
        panel = measured.panel if gate.suite is None else suites.get(gate.suite)
        return None if panel is None else panel.evidence(arm, gate.metric, _rows(panel, gate))

    panels = [measured.panel, *suites.values()]
    lower = {metric for panel in panels for metric in panel.lower_is_better}
    return judge(gates, scores, lookup, prompted=prompted, lower_is_better=lower, seed=measured.panel.seed)


def _rows(panel: Panel, gate: Gate) -> Selection | None:
    """Return the questions that a gate looks at; None where these are all.

    Only questions on which every arm has a mark count, so that arms can be compared.
    """
    applies = [results.applies(gate.metric) for results in panel.arms.values() if gate.metric in results.grades]
    parts = [np.logical_and.reduce(applies)] if applies else []
    parts = [rows for rows in parts if not rows.all()]
    parts += [panel.rows_of(name, value) for name, value in (gate.slice or {}).items()]
    return np.logical_and.reduce(parts) if parts else None


# Answers


def predictions(panel: Panel, slices: Sequence[str]) -> Iterator[Prediction]:
    """Yield one line per question with the answer and the grades of every arm."""
    for index, question in enumerate(panel.questions):
        source, line = question.row.get("source"), question.row.get("line")
        prediction: Prediction = {
            "id": question.id,
            "source": source if isinstance(source, str) else None,
            "line": line if isinstance(line, int) else None,
            "group": question.group,
            "messages": question.messages,
            "reference": question.reference,
            "reference_tokens": question.reference_tokens,
            "slices": {name: question.row.get(name) for name in slices},
            "answers": {arm: _answer(results, index) for arm, results in panel.arms.items() if results.answers},
        }
        if question.calls:  # readers need not know how a template writes them
            prediction["reference_calls"] = _as_json(calls_of(question.calls))
        yield prediction


def _answer(results: ArmResults, index: int) -> ArmAnswer:
    answer = results.answers[index]
    grades = {name: grade for name, marks in results.grades.items() if (grade := marks[index]) is not None}
    entry: ArmAnswer = {
        "text": answer.text,
        "num_tokens": answer.num_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finished": answer.finished,
        "grades": {name: grade.score for name, grade in grades.items()},
        "reasons": {name: grade.reason for name, grade in grades.items() if grade.reason},
        "failure": results.failure(index),
    }
    if results.questions[index].calls:
        entry["calls"] = _as_json(calls_of(answer.tool_calls) if answer.tool_calls else read_calls(answer.text))
    if answer.content is not None:
        entry["content"] = answer.content
    if answer.first_text is not None:
        entry["first_text"] = answer.first_text
    return entry


def _as_json(calls: Calls) -> list[AnswerCall] | None:
    """Return calls as JSON; None for a text that is no call or a broken one."""
    if calls.broken or not calls.calls:
        return None
    return [{"name": call.name, "arguments": call.arguments} for call in calls.calls]
