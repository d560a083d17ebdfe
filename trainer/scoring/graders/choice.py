"""Multiple choice by log-probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import DataError, HardwareError
from trainer.recipe.metrics import MultipleChoice
from trainer.scoring.graders.expected import expected, field
from trainer.scoring.graders.failures import shown
from trainer.scoring.question import Grade, Question

ChoiceScores = Callable[[Sequence[Question], Sequence[list[str]]], list[list[float]] | None]
"""Log-probability (nats) of each choice as the continuation of its question; None where the model does not tell."""


def grade_choices(grader: MultipleChoice, questions: Sequence[Question], scores: ChoiceScores) -> list[Grade]:
    """Mark whether the right choice is the likeliest; of equal ones the first counts.

    Raises:
        DataError: A row has no choices, or no right one among them.
        HardwareError: The model gives no log-probabilities.
    """
    choices = [choices_of(grader, question) for question in questions]
    right = [right_choice(grader, *pair) for pair in zip(questions, choices, strict=True)]
    found = scores(questions, choices)
    if found is None:
        raise HardwareError(
            f"metric {grader.title} needs log-probabilities, which this model does not give", hint="name kind: label"
        )
    return [_grade(grader, *row) for row in zip(choices, right, found, strict=True)]


def _grade(grader: MultipleChoice, choices: list[str], right: int, scores: list[float]) -> Grade:
    per_unit = [score / _length(grader, choice) for score, choice in zip(scores, choices, strict=True)]
    chosen = max(range(len(choices)), key=per_unit.__getitem__)
    if chosen == right:
        return Grade(1.0)
    return Grade(0.0, f"expected {shown(choices[right])}, chose {shown(choices[chosen])}", "knowledge")


def _length(grader: MultipleChoice, choice: str) -> int:
    if grader.normalise == "none":
        return 1
    return max(1, len(choice if grader.normalise == "characters" else choice.encode()))


def choices_of(grader: MultipleChoice, question: Question) -> list[str]:
    """Return the choices of a row.

    Raises:
        DataError: There are fewer than two.
    """
    values = field(grader, question, grader.choices)
    if not isinstance(values, list) or len(values) < 2:
        raise DataError(
            f"{question.id}: `{grader.choices}` must list at least two choices, got {shown(str(values))}",
            hint="correct the row, or name the field with the choices in the metric's `choices`",
        )
    return [str(value) for value in values]


def right_choice(grader: MultipleChoice, question: Question, choices: list[str]) -> int:
    """Return the place of the right choice, named by its text, its index from 0, or its letter from A.

    Raises:
        DataError: There is no such choice.
    """
    value: Any = expected(grader, question)
    text = str(value).strip()
    if isinstance(value, int) and not isinstance(value, bool):
        place = value
    elif text in (stripped := [choice.strip() for choice in choices]):
        place = stripped.index(text)
    elif len(text) == 1 and text.isascii() and text.isalpha():
        place = ord(text.upper()) - ord("A")
    else:
        place = int(text) if text.isdecimal() else -1
    if not 0 <= place < len(choices):
        raise DataError(
            f"{question.id}: {shown(text)} is none of the {len(choices)} choices",
            hint="name the right choice by its text, by its index from 0, or by its letter from A",
        )
    return place
