"""Everything that was measured as eval/scores.json, eval/predictions.jsonl and the evidence of the gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.recipe.gates import Gate
from trainer.scoring.gates.judge import RATES, judge
from trainer.scoring.graders.calls import Calls, calls_of, read_calls
from trainer.scoring.question import Question
from trainer.scoring.results import Marked, Panel
from trainer.scoring.statistics.comparisons import sentence
from trainer.scoring.statistics.intervals import holm
from trainer.scoring.statistics.measurements import Evidence, difference, score


@dataclass(frozen=True)
class EvalMeasurements:
    """What the eval stage has found."""

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


def scores_of(measured: EvalMeasurements) -> dict[str, Any]:
    """Return eval/scores.json."""
    panel = measured.panel
    return {
        "primary": measured.primary,
        "heldout_rows": measured.heldout_rows,
        "metrics": _descriptions(panel),
        "arms": panel.scores(),
        "facts": {arm: _facts(panel, arm) for arm in panel.arms},
        "comparisons": panel.comparisons(_pairs(panel)),
        "slices": panel.slices(measured.slices),
        "suites": {name: suite_scores(suite, must_pass) for name, must_pass, suite in measured.suites},
        "retention": _retention(panel, measured.retention),
        "most_frequent_answer": _most_frequent([question.reference or "" for question in panel.questions]),
    }


def _most_frequent(references: Sequence[str]) -> dict[str, Any] | None:
    """Return the best that one constant answer could do on these rows: the score of knowing nothing."""
    commonest = _commonest(references)
    return commonest and {"text": commonest["text"], "exact_match": commonest["share"]}


def _descriptions(panel: Panel) -> dict[str, dict[str, str]]:
    """Tell reports how each grader's mark, and each task's, is written and which way is good."""
    tasks = {
        name: {"unit": "share" if rows.kind == "share" else "number", "better": "higher"}
        for results in panel.arms.values()
        for name, rows in results.measured.items()
        if rows.ids is not None  # only what a task measured has names of its own
    }
    return tasks | {
        name: {
            "unit": "share" if grader.is_share or name in _shares(panel) else "number",
            "better": "higher" if grader.higher_is_better else "lower",
        }
        for name, grader in panel.graders.items()
    }


def _shares(panel: Panel) -> set[str]:
    """Return the metrics that are an F1 over all rows."""
    return {name for results in panel.arms.values() for name in results.counts}


def _facts(panel: Panel, arm: str) -> dict[str, Any]:
    results = panel.arms[arm]
    if not results.answers:
        return dict(results.facts)
    counted = {"valid": panel.valid(arm), "failures": panel.failures(arm)}
    return results.facts | counted | {"most_frequent_answer": _commonest(results.texts)}


def _commonest(texts: Sequence[str]) -> dict[str, Any] | None:
    """Return the text that an arm answers most often and the share of questions that get it; None if none repeats."""
    counts = Counter(text.strip() for text in texts)
    if not counts or max(counts.values()) == 1:
        return None
    text, count = counts.most_common(1)[0]
    return {"text": text[:200], "share": count / len(texts)}


def _pairs(panel: Panel) -> list[tuple[str, str]]:
    """Return the arms that are compared: each with base, and what is tuned with every prompted one."""
    arms = list(panel.arms)
    found = [(arm, "base") for arm in arms if arm != "base" and "base" in arms]
    is_prompted = {arm: bool(panel.arms[arm].facts.get("prompted")) for arm in arms}
    tuned = [arm for arm in arms if panel.arms[arm].facts.get("model") == "tuned"]
    return found + [(arm, other) for arm in tuned for other in arms if is_prompted[other]]


def suite_scores(panel: Panel, must_pass: bool) -> dict[str, Any]:
    """Return what eval/scores.json says about one suite."""
    return {
        "must_pass": must_pass,
        "n": panel.num_items,
        "metrics": _descriptions(panel),
        "arms": panel.scores(),
        "comparisons": panel.comparisons(_pairs(panel)),
    }


def _retention(panel: Panel, evidence: Mapping[str, Mapping[str, Evidence]]) -> dict[str, Any] | None:
    if not evidence:
        return None
    found: dict[str, Any] = {}
    for metric, arms in evidence.items():
        scored = {arm: score(rows, panel.seed) for arm, rows in arms.items()}
        found[metric] = scored if metric in RATES else scored["tuned"]
    return found | {"comparisons": list(_rate_comparisons(evidence, panel.seed))}


def _rate_comparisons(evidence: Mapping[str, Mapping[str, Evidence]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield tuned minus base of each rate on the same general prompts, corrected for there being several rates."""
    pairs = {metric: evidence[metric] for metric in RATES if {"base", "tuned"} <= set(evidence.get(metric) or {})}
    differences = {metric: difference(arms["tuned"], arms["base"], seed) for metric, arms in pairs.items()}
    corrected = holm([entry["p_value"] for entry in differences.values()])
    for (metric, entry), p_value in zip(differences.items(), corrected, strict=True):
        entry |= {"arm": "tuned", "vs": "base", "metric": metric, "holm_p_value": p_value}
        yield entry | {"sentence": sentence(entry, first="tuned", second="base", lower_is_better=True)}


def judge_gates(
    gates: Sequence[Gate], measured: EvalMeasurements, scores: Mapping[str, Any], prompted: Sequence[str]
) -> list[dict[str, Any]]:
    """Return eval/gates.json.

    Args:
        gates: Of the recipe.
        measured: What was found.
        scores: The same as eval/scores.json.
        prompted: Arms among which `best_prompted` chooses.
    """
    suites = {name: panel for name, _, panel in measured.suites}

    def lookup(arm: str, metric: str, suite: str | None, where: dict[str, str] | None) -> Evidence | None:
        panel = measured.panel if suite is None else suites.get(suite)
        if panel is None:
            return None
        if suite is None and where is None and metric in measured.retention:
            return measured.retention[metric].get(arm)
        rows = _common(panel, metric)
        for name, value in (where or {}).items():
            rows = panel.rows_of(name, value) if rows is None else rows & panel.rows_of(name, value)
        return panel.evidence(arm, metric, rows)

    lower = measured.panel.lower_is_better.union(*(panel.lower_is_better for panel in suites.values()))
    seed = measured.panel.seed
    return judge(gates, scores, lookup, prompted=prompted, lower_is_better=lower, seed=seed)


def _common(panel: Panel, metric: str) -> Marked | None:
    """Return the questions on which every arm has a mark, so that arms can be compared; None where all have."""
    marks = [results.marks(metric) for results in panel.arms.values() if metric in results.grades]
    if not marks:
        return None
    found: Marked = np.asarray(~np.isnan(np.stack(marks)).any(axis=0))
    return None if found.all() else found


def predictions(panel: Panel, slices: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one line a question with the answer and the grades of every arm."""
    for place, question in enumerate(panel.questions):
        yield {
            "id": question.id,
            "source": question.row.get("source"),
            "line": question.row.get("line"),
            "group": question.group,
            "messages": question.messages,
            "reference": question.reference,
            **_reference_calls(question),
            "reference_tokens": question.reference_tokens,
            "slices": {name: question.row.get(name) for name in slices},
            "answers": {arm: _answer(panel, arm, place) for arm, found in panel.arms.items() if found.answers},
        }


def _answer(panel: Panel, arm: str, place: int) -> dict[str, Any]:
    results = panel.arms[arm]
    answer, grades = results.answers[place], {name: marks[place] for name, marks in results.grades.items()}
    found = {
        "text": answer.text,
        "num_tokens": answer.num_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finished": answer.finished,
        "grades": {name: grade.score for name, grade in grades.items() if grade is not None},
        "reasons": {name: grade.reason for name, grade in grades.items() if grade is not None and grade.reason},
        "failure": panel.failure(arm, place),
    }
    if panel.questions[place].calls:
        found["calls"] = _written(calls_of(answer.tool_calls) if answer.tool_calls else read_calls(answer.text))
    found |= {} if answer.content is None else {"content": answer.content}
    return found | ({"first_text": answer.first_text} if answer.repaired else {})


def _reference_calls(question: Question) -> dict[str, Any]:
    """Return the expected calls, so that readers need not know how a template writes them."""
    return {"reference_calls": _written(calls_of(question.calls))} if question.calls else {}


def _written(calls: Calls) -> list[dict[str, Any]] | None:
    """Return calls as JSON; None for a text that is no call or a broken one."""
    if calls.broken or not calls.calls:
        return None
    return [{"name": call.name, "arguments": call.arguments} for call in calls.calls]
