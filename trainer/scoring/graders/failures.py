"""Sort wrong answers by what they would need to become right."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.scoring.graders.json_text import canonical, find, is_json, parse
from trainer.scoring.graders.normalise import words
from trainer.scoring.graders.refusal import refuses
from trainer.scoring.question import Answer, Grade
from trainer.shapes.scores import FailureKind

EXCERPT_CHARACTERS = 80


def failure_of(answer: Answer, expected: Sequence[str]) -> FailureKind:
    """Sort a wrong answer.

    other: empty, or cut off at the limit; refusal: it refused where it should answer; style: the right content after
    normalisation, or with words around it; format: not JSON where JSON is expected; knowledge: all others.
    """
    if not answer.text.strip():
        return "other"
    if refuses(answer.text) and not any(map(refuses, expected)):
        return "refusal"
    if any(_has_content(answer.text, text) for text in expected):
        return "style"
    if not answer.finished:
        return "other"
    if any(map(is_json, expected)) and not is_json(answer.text):
        return "format"
    return "knowledge"


def without_answer(answer: Answer) -> FailureKind:
    """Sort an answer without anything to grade: it is cut off, a refusal, or in another form."""
    if not answer.text.strip() or not answer.finished:
        return "other"
    return "refusal" if refuses(answer.text) else "format"


def wrong(answer: Answer, expected: Sequence[str], reason: str = "") -> Grade:
    """Return the mark of a wrong answer."""
    return Grade(
        0.0, reason or f"expected {excerpt(expected[0])}, got {excerpt(answer.text)}", failure_of(answer, expected)
    )


def excerpt(text: str) -> str:
    """Return a text on one line, short enough for a reason."""
    text = " ".join(text.split())
    return repr(text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…")


def _has_content(text: str, expected: str) -> bool:
    """Tell whether a text holds the expected content, in another form or with words before or after it."""
    if is_json(expected):
        value = find(text)
        return value is not None and canonical(value) == canonical(parse(expected))
    actual, right = words(text), words(expected)
    if not right:
        return False
    return actual[: len(right)] == right or actual[-len(right) :] == right
