"""The metrics that fit a set of rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

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
    ToolCall,
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
"""Field of a JSON answer that is known by its name."""


def auto_metrics(references: Sequence[str], questions: Sequence[Question]) -> list[Grader]:
    """Choose metrics by the reference answers, the deciding one first.

    Args:
        references: Reference answers as text.
        questions: Their questions, which may carry tool calls.
    """
    if not references:
        return []
    texts = [text for text, question in zip(references, questions, strict=True) if not _calls(question)]
    if len(texts) < len(references):
        own = [_only_texts(grader) for grader in _of_text(texts)] if texts else [ExactMatch()]
        return [ToolCall(), *own]
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
    """Choose for JSON; what states its confidence is no text to be met letter by letter."""
    if not all(map(is_json, references)):
        return [ExactMatch(), ValidJson()]
    confidences = [value for text in references for value in _confidences(parse(text))]
    if confidences and all(isinstance(value, int | float) for value in confidences):
        scale = 100.0 if max(confidences) > 1 else 1.0
        fields = JsonFields(fields={CONFIDENCE: "ignore"})
        return [fields, Confidence(scale=scale), ValidJson()]
    return [ExactMatch(), JsonFields(), ValidJson()]


def _confidences(value: Any) -> list[Any]:
    items = value if isinstance(value, list) else [value]
    return [item[CONFIDENCE] for item in items if isinstance(item, dict) and CONFIDENCE in item]


def _calls(question: Question) -> bool:
    message = question.reference_message or {}
    return bool(message.get("tool_calls")) or "<tool_call>" in (question.reference or "")


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
