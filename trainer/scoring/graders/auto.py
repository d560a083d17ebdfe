"""Choose the metrics that fit a set of rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from trainer.recipe.executed import MathAnswer
from trainer.recipe.metrics import (
    ChrF,
    Confidence,
    ExactMatch,
    Grader,
    JsonFields,
    Numeric,
    RougeL,
    TokenF1,
    ToolCallMatch,
    ValidJson,
)
from trainer.scoring.graders.final_answer import marked
from trainer.scoring.graders.json_text import is_json, mostly_json, parse
from trainer.scoring.graders.numeric import final_number
from trainer.scoring.graders.quantities import quantities
from trainer.scoring.question import ANSWER_KIND, Question

MIN_FREE_WORDS = 12
"""Above this median length, references are free text."""
MAX_NUMBER_WORDS = 4
CONFIDENCE = "confidence"
"""Field of a JSON answer that states a confidence."""


def auto_metrics(references: Sequence[str], questions: Sequence[Question]) -> list[Grader]:
    """Choose metrics by the reference answers, the deciding one first.

    Args:
        references: Reference answers as text.
        questions: Their questions, which may carry tool calls.
    """
    if not references:
        return []
    texts = [text for text, question in zip(references, questions, strict=True) if not _has_calls(question)]
    if len(texts) < len(references):
        text_graders = [_only_texts(grader) for grader in _of_text(texts)] if texts else [ExactMatch()]
        return [ToolCallMatch(), *text_graders]
    return _of_text(references)


def _only_texts(grader: Grader) -> Grader:
    return grader.model_copy(update={"when": {ANSWER_KIND: "text"}})


def _of_text(references: Sequence[str]) -> list[Grader]:
    if mostly_json(references):
        return _of_json(references)
    if sum(map(_is_mathematics, references)) > len(references) / 2:
        return [MathAnswer(), ExactMatch()]
    if all(map(_is_number, references)):
        return [ExactMatch(), Numeric()]
    if all(map(_ends_in_number, references)):
        return [Numeric(), RougeL()]
    if statistics.median(len(text.split()) for text in references) <= MIN_FREE_WORDS:
        return [ExactMatch(), TokenF1()]
    return [RougeL(), ChrF(), TokenF1(), ExactMatch()]


def _of_json(references: Sequence[str]) -> list[Grader]:
    """Choose for JSON; an answer that states its confidence need not be met letter by letter."""
    if not all(map(is_json, references)):
        return [ExactMatch(), ValidJson()]
    confidences = [value for text in references for value in _confidences(parse(text))]
    numbers = [value for value in confidences if isinstance(value, int | float)]
    if numbers and len(numbers) == len(confidences):
        scale = 100.0 if max(numbers) > 1 else 1.0
        fields = JsonFields(fields={CONFIDENCE: "ignore"})
        return [fields, Confidence(scale=scale), ValidJson()]
    return [ExactMatch(), JsonFields(), ValidJson()]


def _confidences(value: object) -> list[object]:
    items = value if isinstance(value, list) else [value]
    return [item[CONFIDENCE] for item in items if isinstance(item, dict) and CONFIDENCE in item]


def _has_calls(question: Question) -> bool:
    return bool(question.calls) or "<tool_call>" in (question.reference or "")


def _ends_in_number(text: str) -> bool:
    """Tell whether a worked solution names its number after `####`."""
    return "####" in text and marked(text) is not None and final_number(text) is not None


def _is_mathematics(text: str) -> bool:
    return (
        any(mark in text for mark in ("\\boxed", "\\frac", "\\dfrac", "\\sqrt"))
        or text.strip()[:1] == "$" == text.strip()[-1:]
    )


def _is_number(text: str) -> bool:
    """Tell whether a text is a number, with a unit."""
    return len(quantities(text)) == 1 and len(text.split()) <= MAX_NUMBER_WORDS
