"""Hold what the arms did with one set of questions, and derive every score from it.

A panel is a set of questions (the held-out rows, or one suite) with the answers of several arms. Scores, comparisons
and gates all read the same source, `ArmResults.evidence`: the values of one metric of one arm, row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from trainer.recipe.metrics import Confidence, Grader
from trainer.scoring.gates.metrics import LOWER_IS_BETTER, OPERATIONS, grader_shape
from trainer.scoring.question import Answer, Grade, Question, Timing
from trainer.scoring.statistics.comparisons import corrected_p_values
from trainer.scoring.statistics.inference import Floats
from trainer.scoring.statistics.measurements import Evidence, difference, score
from trainer.scoring.statistics.wording import comparison_of
from trainer.shapes.scores import ArmComparison, ArmFacts, FailureKind, Score, SliceScores

Selection = NDArray[np.bool_]
"""(questions,) true for those that count."""

MAX_SLICES = 30
"""Values of a field that are scored apart, those with most rows."""


@dataclass
class ArmResults:
    """One arm on one set of questions."""

    arm: str
    questions: Sequence[Question]
    graders: Mapping[str, Grader]
    """By the name of their metric, the deciding one first."""
    answers: list[Answer] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """The graded part of the answers: without their reasoning."""
    grades: dict[str, list[Grade | None]] = field(default_factory=dict)
    """By metric, one per question; None where it does not apply."""
    counts: dict[str, Floats] = field(default_factory=dict)
    """(questions, 3) true positives, false positives and false negatives, of metrics that are an F1 over all rows."""
    measured: dict[str, Evidence] = field(default_factory=dict)
    """Metrics that no grader marks: losses, latencies, tokens."""
    figures: dict[str, Score] = field(default_factory=dict)
    """Numbers that are no sum over rows: throughput, peak memory, calibration error."""
    facts: ArmFacts = field(default_factory=lambda: ArmFacts())
    """How the arm was asked."""

    def marks(self, metric: str) -> Floats:
        """Return (questions,) marks, NaN where the metric does not apply."""
        return np.array([np.nan if grade is None else grade.score for grade in self.grades[metric]])

    def applies(self, metric: str) -> Selection:
        """Return (questions,): true where a grader gave a mark."""
        return np.asarray(~np.isnan(self.marks(metric)))

    def evidence(self, metric: str, rows: Selection | None = None) -> Evidence | None:
        """Return the rows of a metric, or None where it was not measured.

        Args:
            metric: Name.
            rows: (questions,) true for those that count; all where None.
        """
        grader = self.graders.get(metric)
        if isinstance(grader, Confidence) and grader.measure == "ece":
            return None  # a calibration error is no sum over rows
        if metric not in self.grades:
            return self.measured.get(metric) if rows is None else None
        counted = self.applies(metric) if rows is None else self.applies(metric) & rows
        if not counted.any():
            return None
        indices = np.flatnonzero(counted).tolist()
        groups = [self.questions[index].group for index in indices]
        ids = [self.questions[index].id for index in indices]
        if metric in self.counts:
            return Evidence("f1", self.counts[metric][indices], groups=groups, ids=ids)
        shape = grader_shape(self.graders[metric])
        values = self.marks(metric)[indices]
        return Evidence(
            "share" if shape == "share" else "mean", values, groups=groups, ids=ids, bounded=shape != "unbounded"
        )

    def scores(self, metrics: Iterable[str], seed: int, rows: Selection | None = None) -> dict[str, Score]:
        """Return the scores of all rows with figures and perplexity, or of a part without them."""
        evidence = {metric: self.evidence(metric, rows) for metric in metrics}
        scores = {metric: score(values, seed) for metric, values in evidence.items() if values}
        if rows is None:
            scores |= self.figures
            if "loss" in scores:
                scores["perplexity"] = _exponential(scores["loss"])
        return scores

    def failure(self, index: int) -> FailureKind | None:
        """Return the kind of failure of one answer; None where the deciding grader is content.

        The deciding grader tells whether the answer failed; a grader of form tells if form is the reason.
        """
        grades = [grade for metric in self.graders if (grade := self.grades[metric][index]) is not None]
        if not grades or grades[0].failure is None:
            return None
        return "format" if any(grade.failure == "format" for grade in grades) else grades[0].failure

    def failures(self) -> dict[FailureKind, int]:
        """Count the wrong answers by kind."""
        counts = Counter(self.failure(index) for index in range(len(self.questions)))
        return {kind: counts[kind] for kind in get_args(FailureKind)}

    def valid(self) -> float:
        """Return the share of answers that every grader of form accepts; 1 where there is none."""
        form = [self.marks(name) for name, grader in self.graders.items() if grader.is_format]
        if not form or not self.questions:
            return 1.0
        return float(np.mean(np.all([np.isnan(marks) | (marks >= 1) for marks in form], axis=0)))


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
        return self.arms.setdefault(arm, ArmResults(arm, self.questions, self.graders))

    @property
    def num_items(self) -> int:
        """Return how many questions there are, with the items of tasks, which no panel asks."""
        measured = (evidence for results in self.arms.values() for evidence in results.measured.values())
        return len(self.questions) + len({name for evidence in measured for name in evidence.ids or ()})

    def evidence(self, arm: str, metric: str, rows: Selection | None = None) -> Evidence | None:
        """Return the rows of a metric of an arm, or None where it was not measured."""
        return self.arms[arm].evidence(metric, rows) if arm in self.arms else None

    def pair(self, arm: str, peer: str, metric: str) -> tuple[Evidence, Evidence] | None:
        """Return a metric of two arms on the questions that both were graded on."""
        results = [self.arms[name] for name in (arm, peer) if name in self.arms]
        rows = None
        if len(results) == 2 and all(metric in result.grades for result in results):
            rows = results[0].applies(metric) & results[1].applies(metric)
        first, second = self.evidence(arm, metric, rows), self.evidence(peer, metric, rows)
        if first is None or second is None or len(first.values) != len(second.values):
            return None
        return first, second

    def metrics(self) -> list[str]:
        """Return the metrics that were measured row by row of any arm, graders first."""
        measured = dict.fromkeys(name for results in self.arms.values() for name in results.measured)
        return [*self.graders, *(name for name in measured if name not in self.graders)]

    def scores(self, rows: Selection | None = None) -> dict[str, dict[str, Score]]:
        """Return every score of every arm, as in eval/scores.json."""
        metrics = self.metrics()
        return {arm: results.scores(metrics, self.seed, rows) for arm, results in self.arms.items()}

    def comparisons(self, pairs: Iterable[tuple[str, str]]) -> list[ArmComparison]:
        """Return the difference of each pair of arms in every metric that both have."""
        differences = {
            (arm, peer, metric): difference(*both, self.seed)
            for arm, peer in pairs
            for metric in self.metrics()
            if (both := self.pair(arm, peer, metric)) is not None
        }
        deciding = next(iter(self.graders), None)
        # families of the correction: the deciding metric, the other metrics of quality, operations (not corrected)
        primary = [key for key in differences if key[2] == deciding]
        further = [key for key in differences if key[2] != deciding and key[2] not in OPERATIONS]
        p_values = {
            key: p_value
            for family in (primary, further)
            for key, p_value in zip(family, corrected_p_values([differences[key] for key in family]), strict=True)
        }
        operations = [key for key in differences if key[2] in OPERATIONS]
        return [
            comparison_of(differences[key], *key, p_value=p_values.get(key), lower_is_better=self.lower_is_better)
            for key in (*primary, *further, *operations)
        ]

    @property
    def lower_is_better(self) -> set[str]:
        """Return the metrics of which less is better."""
        return {*LOWER_IS_BETTER, *(name for name, grader in self.graders.items() if not grader.higher_is_better)}

    def slices(self, fields: Sequence[str]) -> dict[str, dict[str, SliceScores]]:
        """Return the scores of the graders for each value of some fields of the rows."""
        slices = {}
        for name in fields:
            values = (question.row.get(name) for question in self.questions)
            counts = Counter(str(value) for value in values if value is not None)
            largest = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_SLICES]
            slices[name] = {value: self._slice(name, value) for value in largest}
        return slices

    def _slice(self, name: str, value: str) -> SliceScores:
        rows = self.rows_of(name, value)
        return {"n": int(rows.sum()), "arms": self.scores(rows)}

    def rows_of(self, name: str, value: str) -> Selection:
        """Return (questions,): true for those whose row has this value in a field."""
        return np.array([str(question.row.get(name)) == value for question in self.questions])


def latency_evidence(timings: Sequence[Timing]) -> dict[str, Evidence]:
    """Return waiting times of the rows that were answered one by one."""
    if not timings:
        return {}
    total = np.array([timing.total_s for timing in timings])
    first = np.array([timing.first_token_s for timing in timings])
    return {
        "latency_p50_s": Evidence("quantile", total, level=0.5),
        "latency_p95_s": Evidence("quantile", total, level=0.95),
        "ttft_p50_s": Evidence("quantile", first, level=0.5),
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


def _exponential(loss: Score) -> Score:
    """Return the perplexity of a loss; the exponential keeps the order, so its interval is that of the loss."""

    def exponential(value: float) -> float:
        return float(np.exp(min(value, 700.0)))  # e^710 is no float

    low, high = (None if end is None else exponential(end) for end in (loss["low"], loss["high"]))
    return {"value": exponential(loss["value"]), "low": low, "high": high, "n": loss["n"]}
