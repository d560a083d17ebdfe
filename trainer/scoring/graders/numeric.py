"""Numbers in answers."""

from __future__ import annotations

import math
import re

from trainer.errors import DataError
from trainer.recipe.metrics import Numeric
from trainer.scoring.graders.expected import expected_texts
from trainer.scoring.graders.failures import shown
from trainer.scoring.graders.refusal import refuses
from trainer.scoring.question import Answer, Failure, Grade, Question

_SIGN = re.compile(r"(?<![\w)])[-−]\s?[$€£]?\s?$")


def numbers(text: str) -> list[float]:
    """Return the numbers of a text in their order: 1,234.5, -3, $5, 2e3; a minus after a word or number is none."""
    found = []
    for match in re.finditer(
        r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])\.\d+", text
    ):
        value = float(match[0].replace(",", ""))
        is_negative = _SIGN.search(text[max(0, match.start() - 4) : match.start()])
        found.append(-value if is_negative else value)
    return found


def last_number(text: str, pattern: str | None = None) -> float | None:
    """Return the last number of a text, or of what the first group of `pattern` captured last."""
    if pattern is not None:
        captured = [match[1] or "" for match in re.finditer(pattern, text)]
        text = captured[-1] if captured else ""
    found = numbers(text)
    return found[-1] if found else None


def is_close(found: float, wanted: float, *, absolute: float, relative: float) -> bool:
    """Tell whether a number is within the absolute or the relative distance of the wanted one."""
    return math.isfinite(found) and abs(found - wanted) <= max(absolute, relative * abs(wanted))


def grade_numeric(grader: Numeric, answer: Answer, question: Question) -> Grade:
    """Mark the last number of an answer.

    Raises:
        DataError: The expected text holds no number.
    """
    wanted = [grader.expected] if grader.expected is not None else _wanted(grader, question)
    found = last_number(answer.text, grader.pattern)
    if found is None:
        return Grade(0.0, f"no number in {shown(answer.text)}", _without_number(grader, answer))
    if any(_equal(grader, found, value) for value in wanted):
        return Grade(1.0)
    reason = f"expected {wanted[0]:.15g}, got {found:.15g}"
    if not answer.finished:
        return Grade(0.0, reason, "other")
    is_there = any(_equal(grader, number, value) for number in numbers(answer.text)[-2:] for value in wanted)
    return Grade(0.0, reason, "style" if is_there else "knowledge")


def _equal(grader: Numeric, found: float, wanted: float) -> bool:
    return is_close(found, wanted, absolute=grader.abs_tolerance, relative=grader.rel_tolerance)


def _wanted(grader: Numeric, question: Question) -> list[float]:
    values = []
    for text in expected_texts(grader, question):
        value = last_number(text, grader.pattern)
        value = last_number(text) if value is None else value
        if value is None:
            raise DataError(
                f"{question.id}: metric {grader.title} expects a number, got {shown(text)}",
                hint="name the field with the number in the metric's `key`, or give a `pattern` that captures it",
            )
        values.append(value)
    return values


def _without_number(grader: Numeric, answer: Answer) -> Failure:
    if not answer.text.strip() or not answer.finished:
        return "other"
    return "refusal" if refuses(answer.text) else "format"
