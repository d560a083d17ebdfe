"""Grade answers by any metric: the one entrance to all graders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

import numpy as np
from numpy.typing import NDArray

from trainer.errors import HardwareError
from trainer.recipe.executed import Code, MathAnswer, Sql
from trainer.recipe.metrics import (
    ChrF,
    CleanStop,
    Confidence,
    Contains,
    ExactMatch,
    Grader,
    IfEval,
    JsonFields,
    JsonSchema,
    Label,
    Length,
    LlmJudge,
    MultipleChoice,
    NormalisedMatch,
    NotContains,
    Numeric,
    OneOf,
    Refusal,
    Regex,
    RougeL,
    RowGrader,
    SemanticSimilarity,
    TokenF1,
    ToolCallMatch,
    ValidJson,
)
from trainer.scoring.graders.algebra import grade_math
from trainer.scoring.graders.calibration import grade_confidence
from trainer.scoring.graders.choice import ChoiceScores, choices_of, grade_choices, right_choice
from trainer.scoring.graders.expected import applies, expected_texts
from trainer.scoring.graders.expressions import PATTERN_S
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
Service = TypeVar("Service")


@dataclass(frozen=True)
class GraderServices:
    """Helpers that some graders need beside the answer; None where there is none."""

    embed: Callable[[str], Embedder] | None = None
    """Loads an embedding model by the metric's `model`."""
    ask: Ask | None = None
    """Asks the judge."""
    choice_scores: ChoiceScores | None = None
    """Asks the arm's model for the log-probabilities of choices."""


def grade(
    grader: Grader, answers: Sequence[Answer], questions: Sequence[Question], services: GraderServices
) -> list[Grade | None]:
    """Mark answers.

    Args:
        grader: The metric.
        answers: One a question, reasoning cut off.
        questions: What was asked.
        services: Helpers that the metric may need.

    Returns:
        One mark a question; None where the metric does not look at the row.

    Raises:
        DataError: A row lacks what the metric compares with.
        HardwareError: A helper that the metric needs is missing.
    """
    indices = [index for index, question in enumerate(questions) if applies(grader, question)]
    marks: list[Grade | None] = [None] * len(questions)
    if indices:
        relevant = [answers[index] for index in indices], [questions[index] for index in indices]
        for index, mark in zip(indices, _grade_all(grader, *relevant, services), strict=True):
            marks[index] = _writable(mark)
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
    match grader:
        case MultipleChoice():
            for question in rows:
                right_choice(grader, question, choices_of(grader, question))
        case Label():
            grade_labels(grader, right, rows)
        case SemanticSimilarity() | MathAnswer():
            for question in rows:
                expected_texts(grader, question)
        case Sql():
            check_sql(grader, rows)
        case Code():
            check_code(grader, rows)
        case LlmJudge():
            pass
        case _:
            for answer, question in zip(right, rows, strict=True):
                _grade_in_time(grader, answer, question)


def needs_help(grader: Grader) -> bool:
    """Tell whether a metric asks another model, or for log-probabilities."""
    if isinstance(grader, LlmJudge | MultipleChoice | SemanticSimilarity):
        return True
    if isinstance(grader, RowGrader | Label | MathAnswer | Sql | Code):
        return False
    assert_never(grader)


def _grade_all(
    grader: Grader, answers: Sequence[Answer], questions: Sequence[Question], services: GraderServices
) -> Sequence[Grade | None]:
    match grader:
        case Label():
            return grade_labels(grader, answers, questions)
        case MultipleChoice():
            noun = "log-probabilities, which this model does not give"
            return grade_choices(grader, questions, _required(services.choice_scores, grader, noun, "kind: label"))
        case SemanticSimilarity():
            embed = _required(
                services.embed, grader, "sentence embeddings", "kind: rouge_l, or install the extra `semantic`"
            )
            return grade_semantic(grader, answers, questions, embed(grader.model))
        case MathAnswer():
            return grade_math(grader, answers, questions)
        case Sql():
            return grade_sql(grader, answers, questions)
        case Code():
            return grade_code(grader, answers, questions)
        case LlmJudge():
            ask = _required(services.ask, grader, "a model as judge", "a judge: eval.judge: {base_url: ..., name: ...}")
            return grade_by_judge(grader, answers, questions, ask)
        case _:
            return [_grade_in_time(grader, *row) for row in zip(answers, questions, strict=True)]


def _grade_in_time(grader: RowGrader, answer: Answer, question: Question) -> Grade:
    try:
        return _grade_row(grader, answer, question)
    except TimeoutError:
        return Grade(0.0, f"the pattern takes longer than {PATTERN_S:g} s on this answer", "other")


def _grade_row(  # noqa: C901  one flat case a metric
    grader: RowGrader, answer: Answer, question: Question
) -> Grade:
    match grader:
        case ExactMatch():
            return grade_exact(grader, answer, question)
        case NormalisedMatch():
            return grade_normalised(grader, answer, question)
        case OneOf():
            return grade_one_of(grader, answer, question)
        case Contains():
            return grade_contains(grader, answer, question)
        case NotContains():
            return grade_not_contains(grader, answer, question)
        case Regex():
            return grade_regex(grader, answer, question)
        case Numeric():
            return grade_numeric(grader, answer, question)
        case ValidJson():
            return grade_valid_json(grader, answer, question)
        case JsonSchema():
            return grade_json_schema(grader, answer, question)
        case JsonFields():
            return grade_json_fields(grader, answer, question)
        case ToolCallMatch():
            return grade_tool_call(grader, answer, question)
        case Refusal():
            return grade_refusal(grader, answer, question)
        case IfEval():
            return grade_ifeval(grader, answer, question)
        case RougeL():
            return grade_rouge_l(grader, answer, question)
        case ChrF():
            return grade_chrf(grader, answer, question)
        case TokenF1():
            return grade_token_f1(grader, answer, question)
        case Length():
            return grade_length(grader, answer, question)
        case CleanStop():
            return grade_clean_stop(grader, answer, question)
        case Confidence():
            return grade_confidence(grader, answer, question)
        case _:
            assert_never(grader)


def _required(service: Service | None, grader: Grader, noun: str, instead: str) -> Service:
    if service is None:
        raise HardwareError(f"metric {grader.title} needs {noun}", hint=f"name {instead}")
    return service
