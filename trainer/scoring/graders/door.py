"""The one door to all graders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import HardwareError
from trainer.recipe.executed import Code, MathAnswer, Sql
from trainer.recipe.metrics import Grader, Label, LlmJudge, MultipleChoice, Semantic
from trainer.scoring.graders.algebra import grade_math
from trainer.scoring.graders.calibration import grade_confidence
from trainer.scoring.graders.choice import ChoiceScores, choices_of, grade_choices, right_choice
from trainer.scoring.graders.expected import applies, expected_texts
from trainer.scoring.graders.ifeval.grading import grade_ifeval
from trainer.scoring.graders.judge import Ask, grade_by_judge
from trainer.scoring.graders.numeric import grade_numeric
from trainer.scoring.graders.programs import check_code, grade_code
from trainer.scoring.graders.queries import check_sql, grade_sql
from trainer.scoring.graders.refusal import grade_refusal
from trainer.scoring.graders.similarity import grade_chrf, grade_rouge_l, grade_semantic, grade_token_f1
from trainer.scoring.graders.structured import grade_json_fields, grade_json_schema, grade_valid_json
from trainer.scoring.graders.text import (
    grade_clean_stop,
    grade_contains,
    grade_exact,
    grade_labels,
    grade_length,
    grade_normalised,
    grade_not_contains,
    grade_one_of,
    grade_regex,
)
from trainer.scoring.graders.tools import grade_tool_call
from trainer.scoring.question import Answer, Grade, Question

Embedder = Callable[[Sequence[str]], NDArray[np.float32]]

_ROW_BY_ROW: dict[str, Callable[[Any, Answer, Question], Grade]] = {
    "exact_match": grade_exact,
    "normalised_match": grade_normalised,
    "one_of": grade_one_of,
    "contains": grade_contains,
    "not_contains": grade_not_contains,
    "regex": grade_regex,
    "numeric": grade_numeric,
    "valid_json": grade_valid_json,
    "json_schema": grade_json_schema,
    "json_fields": grade_json_fields,
    "tool_call": grade_tool_call,
    "refusal": grade_refusal,
    "ifeval": grade_ifeval,
    "rouge_l": grade_rouge_l,
    "chrf": grade_chrf,
    "token_f1": grade_token_f1,
    "length": grade_length,
    "clean_stop": grade_clean_stop,
    "confidence": grade_confidence,
}


@dataclass(frozen=True)
class Help:
    """What some graders need beside the answer; None where there is none."""

    embed: Callable[[str], Embedder] | None = None
    """Loads an embedding model by the metric's `model`."""
    ask: Ask | None = None
    """Asks the judge."""
    choice_scores: ChoiceScores | None = None
    """Asks the arm's model for the log-probabilities of choices."""


def grade(grader: Grader, answers: Sequence[Answer], questions: Sequence[Question], help: Help) -> list[Grade | None]:
    """Mark answers.

    Args:
        grader: The metric.
        answers: One a question, reasoning cut off.
        questions: What was asked.
        help: What the metric may need beside them.

    Returns:
        One mark a question; None where the metric does not look at the row.

    Raises:
        DataError: A row lacks what the metric compares with.
        HardwareError: A helper that the metric needs is missing.
    """
    places = [place for place, question in enumerate(questions) if applies(grader, question)]
    marks: list[Grade | None] = [None] * len(questions)
    if places:
        found = _grade_all(grader, [answers[place] for place in places], [questions[place] for place in places], help)
        for place, mark in zip(places, found, strict=True):
            marks[place] = _writable(mark)
    return marks


def _writable(mark: Grade | None) -> Grade | None:
    """Return a mark whose reason is UTF-8: halves of surrogate pairs, which JSON may escape, are none."""
    if mark is None or mark.reason.isascii():
        return mark
    return replace(mark, reason=mark.reason.encode("utf-8", "replace").decode("utf-8"))


def check(grader: Grader, questions: Sequence[Question]) -> None:
    """Refuse rows that lack what a metric compares with, before anything is generated for them.

    Raises:
        DataError: As `grade`.
    """
    rows = [question for question in questions if applies(grader, question)]
    right = [Answer(question.reference or "", 1, finished=True) for question in rows]
    if isinstance(grader, MultipleChoice):
        for question in rows:
            right_choice(grader, question, choices_of(grader, question))
    elif isinstance(grader, Label):
        grade_labels(grader, right, rows)
    elif isinstance(grader, Semantic | MathAnswer):
        for question in rows:
            expected_texts(grader, question)
    elif isinstance(grader, Sql):
        check_sql(grader, rows)
    elif isinstance(grader, Code):
        check_code(grader, rows)
    elif grader.kind in _ROW_BY_ROW:
        for answer, question in zip(right, rows, strict=True):
            _ROW_BY_ROW[grader.kind](grader, answer, question)


def _grade_all(
    grader: Grader, answers: Sequence[Answer], questions: Sequence[Question], help: Help
) -> Sequence[Grade | None]:
    if isinstance(grader, Label):
        return grade_labels(grader, answers, questions)
    if isinstance(grader, MultipleChoice):
        scores = _given(help.choice_scores, grader, "log-probabilities, which this model does not give", "kind: label")
        return grade_choices(grader, questions, scores)
    if isinstance(grader, Semantic):
        embed = _given(help.embed, grader, "sentence embeddings", "kind: rouge_l, or install the extra `semantic`")
        return grade_semantic(grader, answers, questions, embed(grader.model))
    if isinstance(grader, MathAnswer):
        return grade_math(grader, answers, questions)
    if isinstance(grader, Sql):
        return grade_sql(grader, answers, questions)
    if isinstance(grader, Code):
        return grade_code(grader, answers, questions)
    if isinstance(grader, LlmJudge):
        ask = _given(help.ask, grader, "a model as judge", "a judge: eval.judge: {base_url: ..., name: ...}")
        return grade_by_judge(grader, answers, questions, ask)
    row_by_row = _ROW_BY_ROW[grader.kind]
    return [row_by_row(grader, answer, question) for answer, question in zip(answers, questions, strict=True)]


def _given(helper: Any, grader: Grader, what: str, instead: str) -> Any:
    if helper is None:
        raise HardwareError(f"metric {grader.title} needs {what}", hint=f"name {instead}")
    return helper
