"""What the arms did with one set of questions, and every score that follows from it.

A panel is a set of questions (the held-out rows, or one suite) with the answers of several arms. Everything that is
said about it comes from one place, `evidence`: the values of one metric, one arm, row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.recipe.metrics import Confidence, Grader, LlmJudge, SemanticSimilarity
from trainer.scoring.gates.judge import LOWER_IS_BETTER, OPERATIONS
from trainer.scoring.question import Answer, Grade, Question, Timing
from trainer.scoring.statistics.clusters import Floats
from trainer.scoring.statistics.comparisons import sentence, with_holm
from trainer.scoring.statistics.intervals import Score
from trainer.scoring.statistics.measurements import Evidence, Kind, difference, score

Marked = np.ndarray[Any, np.dtype[np.bool_]]

MAX_SLICES = 30
"""Values of a field that are scored apart, those with most rows."""


@dataclass
class ArmResults:
    """One arm on one set of questions."""

    answers: list[Answer]
    texts: list[str]
    """What was graded: the answers without their reasoning."""
    grades: dict[str, list[Grade | None]] = field(default_factory=dict)
    """By metric, one a question; None where it does not apply."""
    counts: dict[str, Floats] = field(default_factory=dict)
    """(questions, 3) true positives, false positives and false negatives, of metrics that are an F1 over all rows."""
    measured: dict[str, Evidence] = field(default_factory=dict)
    """What is not graded: losses, latencies, tokens."""
    figures: dict[str, Score] = field(default_factory=dict)
    """Numbers that are no sum over rows: throughput, peak memory, calibration error."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What eval/scores.json says about the arm itself."""

    def marks(self, metric: str) -> Floats:
        """Return one value a question, NaN where the metric does not apply."""
        return np.array([np.nan if grade is None else grade.score for grade in self.grades[metric]])


@dataclass
class Panel:
    """A set of questions and the arms that answered them."""

    questions: list[Question]
    graders: dict[str, Grader]
    """By the name of their metric, the deciding one first."""
    seed: int
    arms: dict[str, ArmResults] = field(default_factory=dict)

    def results(self, arm: str) -> ArmResults:
        """Return the results of an arm, empty ones where it has answered nothing."""
        return self.arms.setdefault(arm, ArmResults([], []))

    @property
    def num_items(self) -> int:
        """Return how many questions there are, with the items of tasks, which no panel asks."""
        measured = (rows for results in self.arms.values() for rows in results.measured.values())
        return len(self.questions) + len({name for rows in measured for name in rows.ids or ()})

    def evidence(self, arm: str, metric: str, rows: Marked | None = None) -> Evidence | None:
        """Return the rows of a metric, or None where it was not measured.

        Args:
            arm: Name.
            metric: Name.
            rows: (questions,) true for those that count; all where None.
        """
        results, grader = self.arms.get(arm), self.graders.get(metric)
        if results is None or (isinstance(grader, Confidence) and grader.measure == "ece"):
            return None  # a calibration error is no sum over rows
        if metric not in results.grades:
            return results.measured.get(metric) if rows is None else None
        counted = ~np.isnan(results.marks(metric))
        if rows is not None:
            counted &= rows
        if not counted.any():
            return None
        places = np.flatnonzero(counted)
        common: dict[str, Any] = {
            "groups": [self.questions[place].group for place in places],
            "ids": [self.questions[place].id for place in places],
        }
        if metric in results.counts:
            return Evidence("f1", results.counts[metric][places], **common)
        kind: Kind = "share" if self.graders[metric].is_share else "mean"
        return Evidence(kind, results.marks(metric)[places], bounded=_is_bounded(self.graders[metric]), **common)

    def pair(self, arm: str, other: str, metric: str, rows: Marked | None = None) -> tuple[Evidence, Evidence] | None:
        """Return a metric of two arms on the questions that both were graded on."""
        results = [self.arms.get(name) for name in (arm, other)]
        if all(found is not None and metric in found.grades for found in results):
            both = np.logical_and(*[~np.isnan(found.marks(metric)) for found in results if found is not None])
            rows = both if rows is None else both & rows
        first, second = self.evidence(arm, metric, rows), self.evidence(other, metric, rows)
        if first is None or second is None or len(first.values) != len(second.values):
            return None
        return first, second

    def metrics(self) -> list[str]:
        """Return what was measured row by row of any arm, graders first."""
        measured = dict.fromkeys(name for results in self.arms.values() for name in results.measured)
        return [*self.graders, *(name for name in measured if name not in self.graders)]

    def scores(self, rows: Marked | None = None) -> dict[str, dict[str, Score]]:
        """Return every score of every arm, as in eval/scores.json."""
        found: dict[str, dict[str, Score]] = {}
        for arm, results in self.arms.items():
            evidence = {metric: self.evidence(arm, metric, rows) for metric in self.metrics()}
            found[arm] = {metric: score(rows_of, self.seed) for metric, rows_of in evidence.items() if rows_of}
            if rows is None:
                found[arm] |= results.figures
                if "loss" in found[arm]:
                    found[arm]["perplexity"] = _exponent(found[arm]["loss"])
        return found

    def comparisons(self, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the difference of each pair of arms in every metric that both have."""
        found = []
        for arm, other in pairs:
            for metric in self.metrics():
                both = self.pair(arm, other, metric)
                if both is not None:
                    found.append({"arm": arm, "vs": other, "metric": metric} | difference(*both, self.seed))
        deciding = next(iter(self.graders), None)
        corrected = [
            *with_holm([one for one in found if one["metric"] == deciding]),
            *with_holm([one for one in found if one["metric"] != deciding and one["metric"] not in OPERATIONS]),
            *(one for one in found if one["metric"] in OPERATIONS),
        ]
        return [self._told(one) for one in corrected]

    def _told(self, comparison: dict[str, Any]) -> dict[str, Any]:
        arm, other, lower = comparison["arm"], comparison["vs"], comparison["metric"] in self.lower_is_better
        return comparison | {"sentence": sentence(comparison, first=arm, second=other, lower_is_better=lower)}

    @property
    def lower_is_better(self) -> set[str]:
        """Return the metrics of which less is better."""
        return {*LOWER_IS_BETTER, *(name for name, grader in self.graders.items() if not grader.higher_is_better)}

    def slices(self, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the scores of the graders for each value of some fields of the rows."""
        found: dict[str, dict[str, Any]] = {}
        for name in fields:
            given = (question.row.get(name) for question in self.questions)
            counts = Counter(str(value) for value in given if value is not None)
            largest = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_SLICES]
            found[name] = {value: self._slice(name, value) for value in largest}
        return found

    def _slice(self, name: str, value: str) -> dict[str, Any]:
        rows = self.rows_of(name, value)
        return {"n": int(rows.sum()), "arms": self.scores(rows)}

    def rows_of(self, name: str, value: str) -> Marked:
        """Return (questions,): true for those whose row has this value in a field."""
        return np.array([str(question.row.get(name)) == value for question in self.questions])

    def failures(self, arm: str) -> dict[str, int]:
        """Count an arm's wrong answers by kind, as the first grader that names one sees them."""
        counts = dict.fromkeys(("format", "style", "knowledge", "refusal", "other"), 0)
        for place in range(len(self.questions)):
            kind = self.failure(arm, place)
            if kind is not None:
                counts[kind] += 1
        return counts

    def failure(self, arm: str, place: int) -> str | None:
        """Return the kind of failure of one answer; None where the deciding grader is content.

        The deciding grader says whether it failed; a grader of form says so where form is the reason.
        """
        grades = [self.arms[arm].grades[metric][place] for metric in self.graders]
        deciding = next((grade for grade in grades if grade is not None), None)
        if deciding is None or deciding.failure is None:
            return None
        form = (grade.failure for grade in grades if grade is not None and grade.failure == "format")
        return next(form, deciding.failure)

    def valid(self, arm: str) -> float:
        """Return the share of answers that every grader of form accepts; 1 where there is none."""
        form = [self.arms[arm].marks(name) for name, grader in self.graders.items() if grader.is_format]
        if not form or not self.questions:
            return 1.0
        return float(np.mean(np.all([np.isnan(marks) | (marks >= 1) for marks in form], axis=0)))


def _is_bounded(grader: Grader) -> bool:
    """Tell whether marks lie between 0 and 1: a rubric goes from 1 to 5, a cosine below 0."""
    match grader:
        case LlmJudge():
            return grader.mode == "pairwise"
        case SemanticSimilarity():
            return False
        case _:
            return True


def latency_evidence(timings: Sequence[Timing]) -> dict[str, Evidence]:
    """Return what the rows answered one by one say about waiting."""
    if not timings:
        return {}
    total = np.array([timing.total_s for timing in timings])
    first = np.array([timing.first_token_s for timing in timings])
    return {
        "latency_p50_s": Evidence("quantile", total, at=0.5),
        "latency_p95_s": Evidence("quantile", total, at=0.95),
        "ttft_p50_s": Evidence("quantile", first, at=0.5),
    }


def answer_evidence(answers: Sequence[Answer], groups: Sequence[str]) -> dict[str, Evidence]:
    """Return tokens and clean stops."""
    if not answers:
        return {}

    def tokens(counts: Iterable[int]) -> Evidence:
        return Evidence("mean", np.array(list(counts), dtype=np.float64), groups=groups, bounded=False)

    return {
        "clean_stop": Evidence("share", np.array([float(answer.finished) for answer in answers]), groups=groups),
        "prompt_tokens": tokens(answer.prompt_tokens for answer in answers),
        "answer_tokens": tokens(answer.num_tokens for answer in answers),
    }


def figure(value: float) -> Score:
    """Return a number that was measured once."""
    return {"value": value, "low": None, "high": None, "n": 1}


def _exponent(loss: Score) -> Score:
    """Return the perplexity of a loss; the exponential keeps the order, so its interval is that of the loss."""
    values = {key: loss[key] for key in ("value", "low", "high")}
    return {key: None if value is None else float(np.exp(min(value, 700.0))) for key, value in values.items()} | {
        "n": loss["n"]
    }
