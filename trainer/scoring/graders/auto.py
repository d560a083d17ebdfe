"""The metrics that fit a set of rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from trainer.recipe.metrics import (
    ChrF,
    ExactMatch,
    Grader,
    JsonFields,
    Numeric,
    RougeL,
    TokenF1,
    ToolCall,
    ValidJson,
)
from trainer.scoring.graders.json_text import is_json, mostly_json
from trainer.scoring.graders.numeric import numbers
from trainer.scoring.question import Question

MIN_FREE_WORDS = 12
"""Above this median length, references are free text."""
MAX_NUMBER_WORDS = 4


def auto_metrics(references: Sequence[str], questions: Sequence[Question]) -> list[Grader]:
    """Choose metrics by the reference answers, the deciding one first.

    Args:
        references: Reference answers as text.
        questions: Their questions, which may carry tool calls.
    """
    if not references:
        return []
    calls = sum(map(_calls, questions))
    if calls:
        always = calls == len(questions)
        return [ToolCall(), *([] if always else _of_text(_without_calls(questions), partly=True)), ExactMatch()]
    if mostly_json(references):
        fields: list[Grader] = [JsonFields()] if all(map(is_json, references)) else []
        return [ExactMatch(), *fields, ValidJson()]
    if all(map(_is_number, references)):
        return [ExactMatch(), Numeric()]
    return _of_text(references)


def _of_text(references: Sequence[str], *, partly: bool = False) -> list[Grader]:
    if not references or statistics.median(len(text.split()) for text in references) <= MIN_FREE_WORDS:
        return [] if partly else [ExactMatch(), TokenF1()]
    return [RougeL(), ChrF()] if partly else [RougeL(), ChrF(), TokenF1(), ExactMatch()]


def _calls(question: Question) -> bool:
    message = question.reference_message or {}
    return bool(message.get("tool_calls")) or "<tool_call>" in (question.reference or "")


def _without_calls(questions: Sequence[Question]) -> list[str]:
    return [question.reference or "" for question in questions if not _calls(question)]


def _is_number(text: str) -> bool:
    """Tell whether a text is a number, with a unit or a worked solution that ends in `#### number`."""
    return len(numbers(text)) == 1 and len(text.split()) <= MAX_NUMBER_WORDS
