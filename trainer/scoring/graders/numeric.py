"""Grade the number that an answer ends up with."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from trainer.errors import DataError
from trainer.recipe.metrics import Numeric
from trainer.scoring.graders.expected import expected_texts
from trainer.scoring.graders.expressions import matches
from trainer.scoring.graders.failures import excerpt, without_answer
from trainer.scoring.graders.final_answer import (
    MAX_CHARACTERS,
    marked,
    sentences,
    without_asides,
    without_reason,
    without_remarks,
)
from trainer.scoring.graders.quantities import Quantity, number_in_words, quantities
from trainer.scoring.question import Answer, Grade, Question

LARGEST_EXACT = 2.0**53
"""Whole numbers up to here are exact as floats."""
MAX_UNIT_WORDS = 3
_EQUALS = re.compile(r"(?<![<>!])=|[≈≅≃⇒]|\\approx")
_OPERATOR = re.compile(
    r"[+*/×÷·]|(?<![^\W\d_])[-−–](?![^\W\d_])|\\(?:times|cdot|div)|\b(?:plus|minus|times)\b", re.IGNORECASE
)
_CONCLUDES = re.compile(
    r"=|\b(?:so|therefore|thus|hence|total|altogether|in all|then|makes?|answer|also)\b", re.IGNORECASE
)


def final_number(text: str, pattern: str | None = None) -> Quantity | None:
    """Return the number that a text ends up with; None where there is none.

    It is the one in a box or after a mark such as "the answer is" or `####`; else the last one before closing remarks.

    Args:
        text: An answer.
        pattern: Expression whose first group holds the number; the last match counts.

    Example:
        >>> texts = ("12 = 15 - 3, so 12 apples.", "The answer is 5, not 7.", "#### 1,018")
        >>> [number.value for text in texts if (number := final_number(text))]
        [12.0, 5.0, 1018.0]
    """
    text = text[-MAX_CHARACTERS:]
    if pattern is not None:
        captured = [match[1] or "" for match in matches(pattern, text)]
        return _last(captured[-1]) if captured else None
    part = marked(text)
    if part is not None:
        first = next((sentence for sentence in sentences(part) if _has_number(sentence)), "")
        return _after_equals(without_asides(first), first=True) or _closing(text)
    return _closing(text)


def _closing(text: str) -> Quantity | None:
    """Return the number of the last sentence that has one, or of the first where that says nothing else."""
    parts = [part for part in sentences(without_remarks(text)) if quantities(part)]
    if not parts:
        return _last(text)
    direct = without_asides(parts[0])
    if len(parts) == 1 and _is_bare(direct) and "=" not in parts[0]:
        return quantities(direct)[0]
    if _is_bare(parts[0]) and not any(_CONCLUDES.search(part) or _is_bare(part) for part in parts[1:]):
        return quantities(parts[0])[0]
    statement = without_reason(parts[-1])
    return _after_equals(statement if quantities(statement) else parts[-1], first=False)


def _has_number(text: str) -> bool:
    return bool(quantities(text)) or number_in_words(text) is not None


def _is_bare(sentence: str) -> bool:
    """Tell whether a sentence is one number with a unit at most."""
    numbers = quantities(sentence)
    if len(numbers) != 1:
        return False
    before, after = sentence[: numbers[0].start], sentence[numbers[0].end :]
    is_first = not re.search(r"[A-Za-z]{2}", before) or re.search(r"\b(?:about|approximately|approx|~)\W*$", before)
    return bool(is_first) and len(after.split()) <= MAX_UNIT_WORDS


def _after_equals(sentence: str, *, first: bool) -> Quantity | None:
    """Return the number after the last sign of equality, or the first or last of a sentence where none follows one.

    A result may stand before its calculation: 12 = 15 - 3.
    """
    *sides, after = _EQUALS.split(sentence)
    numbers = quantities(after)
    if numbers and sides:
        results = [side for side in sides if _is_result(side)] if _is_calculation(after, numbers) else []
        return quantities(results[-1])[0] if results else numbers[0]
    numbers = numbers or quantities(sentence)
    if not numbers:
        return _last(sentence)
    return numbers[0] if first else numbers[-1]


def _is_calculation(text: str, numbers: Sequence[Quantity]) -> bool:
    return len(numbers) > 1 and _OPERATOR.search(text[numbers[0].end : numbers[1].start]) is not None


def _is_result(text: str) -> bool:
    """Tell whether a text has one number, with which nothing is calculated."""
    numbers = quantities(text)
    if len(numbers) != 1:
        return False
    before, after = text[: numbers[0].start].rstrip(), text[numbers[0].end :]
    before = before.rstrip("-−–") if numbers[0].value < 0 else before
    return not _OPERATOR.search(before) and not _OPERATOR.search(after)


def _last(text: str) -> Quantity | None:
    numbers = quantities(text)
    if numbers:
        return numbers[-1]
    value = number_in_words(text)
    return None if value is None else Quantity(value, 0, len(text))


def is_close(value: float, expected: float, *, absolute: float, relative: float) -> bool:
    """Tell whether a number is within the absolute or the relative distance of the expected one."""
    return math.isfinite(value) and abs(value - expected) <= max(absolute, relative * abs(expected))


def grade_numeric(grader: Numeric, answer: Answer, question: Question) -> Grade:
    """Mark the number that an answer ends up with.

    Raises:
        DataError: The expected text holds no number.
    """
    expected = [Quantity(grader.expected, 0, 0)] if grader.expected is not None else _expected(grader, question)
    number = final_number(answer.text, grader.pattern)
    if number is None:
        return Grade(0.0, f"no number in {excerpt(answer.text)}", without_answer(answer))
    if any(_equal(grader, number, value) for value in expected):
        return Grade(1.0)
    reason = f"expected {_written(expected[0])}, got {_written(number)}"
    if not answer.finished:
        return Grade(0.0, reason, "other")
    last = quantities(answer.text[-MAX_CHARACTERS:])[-2:]
    is_there = any(_equal(grader, replace(candidate, is_open=False), value) for candidate in last for value in expected)
    return Grade(0.0, reason, "style" if is_there else "knowledge")


def _written(number: Quantity) -> str:
    several = ", one of several" if number.is_open else ""
    return f"{number.value:.15g}{' %' if number.is_percent else ''}{several}"


def _equal(grader: Numeric, number: Quantity, expected: Quantity) -> bool:
    """Compare two numbers; a percentage equals the number before its sign and the share that it stands for."""
    if number.is_open != expected.is_open:
        return False
    values = _readings(number, is_share=not expected.is_percent)
    right = _readings(expected, is_share=not number.is_percent)
    return any(_is_equal(grader, value, target) for value in values for target in right)


def _readings(number: Quantity, *, is_share: bool) -> list[float]:
    also = [] if number.also is None else [number.also]
    return [number.value, *also, *([number.value / 100] if number.is_percent and is_share else [])]


def _is_equal(grader: Numeric, value: float, expected: float) -> bool:
    is_default = "rel_tolerance" not in grader.model_fields_set
    if is_default and expected.is_integer() and value.is_integer() and abs(expected) < LARGEST_EXACT:
        return abs(value - expected) <= grader.abs_tolerance
    return is_close(value, expected, absolute=grader.abs_tolerance, relative=grader.rel_tolerance)


def _expected(grader: Numeric, question: Question) -> list[Quantity]:
    values = []
    for text in expected_texts(grader, question):
        value = final_number(text, grader.pattern) or final_number(text)
        if value is None or not math.isfinite(value.value):
            raise DataError(
                f"{question.id}: metric {grader.title} expects a number, got {excerpt(text)}",
                hint="name the field with the number in the metric's `key`, or give a `pattern` that captures it",
            )
        values.append(value)
    return values
