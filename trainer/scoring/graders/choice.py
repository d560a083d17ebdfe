"""Grade multiple choice: by log-probability or, for models that do not tell it, by the letter that they write."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import replace

from trainer.errors import DataError, HardwareError
from trainer.recipe.metrics import MultipleChoice
from trainer.scoring.graders.expected import expected_value, field
from trainer.scoring.graders.failures import excerpt
from trainer.scoring.question import Answer, Grade, PromptRequest, Question

ChoiceScores = Callable[[Sequence[Question], Sequence[list[str]]], list[list[float]] | None]
"""Log-probability (nats) of each choice as the continuation of its question; None where the model does not tell."""
REQUEST = "Answer with the letter of the right choice and nothing else."
LETTER_FIRST = re.compile(r"[(\[*]*([A-Z])(?:[)\].:,*]|\s*$)|[(\[*]*([a-z])[)\].:*]*\s*$")
"""A letter that the answer begins with; a small one may be a word unless it is the answer."""
LETTER_NAMED = re.compile(r"\b(?i:answer|choice|option)\s*(?i:is)?\s*:?\s*[(\[*]*([A-Z])\b")
"""A letter named later on: a capital, as "the answer is a mammal" names none."""


# By log-probability


def grade_choices(grader: MultipleChoice, questions: Sequence[Question], scores: ChoiceScores) -> list[Grade]:
    """Mark whether the right choice is the likeliest; of equal ones the first counts.

    Raises:
        DataError: A row has no choices, or no right one among them.
        HardwareError: The model gives no log-probabilities.
    """
    choices = [choices_of(grader, question) for question in questions]
    right = [right_choice(grader, *pair) for pair in zip(questions, choices, strict=True)]
    log_probs = scores(questions, choices)
    if log_probs is None:
        raise HardwareError(
            f"metric {grader.title} needs log-probabilities, which this model does not give", hint="name kind: label"
        )
    return [_grade_scores(grader, *row) for row in zip(choices, right, log_probs, strict=True)]


def _grade_scores(grader: MultipleChoice, choices: list[str], right: int, scores: list[float]) -> Grade:
    per_unit = [score / _length(grader, choice) for score, choice in zip(scores, choices, strict=True)]
    chosen = max(range(len(choices)), key=per_unit.__getitem__)
    return _grade(choices, right, chosen)


def _grade(choices: Sequence[str], right: int, chosen: int) -> Grade:
    if chosen == right:
        return Grade(1.0)
    return Grade(0.0, f"expected {excerpt(choices[right])}, chose {excerpt(choices[chosen])}", "knowledge")


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
            f"{question.id}: `{grader.choices}` must list at least two choices, got {excerpt(str(values))}",
            hint="correct the row, or name the field with the choices in the metric's `choices`",
        )
    return [str(value) for value in values]


def right_choice(grader: MultipleChoice, question: Question, choices: list[str]) -> int:
    """Return the index of the right choice, which the row names by text, index from 0, or letter from A.

    Raises:
        DataError: There is no such choice.
    """
    value = expected_value(grader, question)
    text = str(value).strip()
    if isinstance(value, int) and not isinstance(value, bool):
        index = value
    elif text in (stripped := [choice.strip() for choice in choices]):
        index = stripped.index(text)
    elif len(text) == 1 and text.isascii() and text.isalpha():
        index = ord(text.upper()) - ord("A")
    else:
        index = int(text) if text.isdecimal() else -1
    if not 0 <= index < len(choices):
        raise DataError(
            f"{question.id}: {excerpt(text)} is none of the {len(choices)} choices",
            hint="name the right choice by its text, by its index from 0, or by its letter from A",
        )
    return index


# By letter


def with_letters(grader: MultipleChoice, question: Question, prompt: PromptRequest) -> PromptRequest:
    """Add the choices of a question, A to Z, to the last message.

    Raises:
        DataError: The row has no choices.
    """
    pairs = zip(string.ascii_uppercase, choices_of(grader, question), strict=False)
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in pairs)
    last = prompt.messages[-1]
    content = f"{last.get('content') or ''}\n\n{lines}\n\n{REQUEST}"
    return replace(prompt, messages=[*prompt.messages[:-1], {**last, "content": content}])


def grade_letters(grader: MultipleChoice, answers: Sequence[Answer], questions: Sequence[Question]) -> list[Grade]:
    """Mark whether the right choice was named, by its letter or its text.

    Raises:
        DataError: A row has no choices, or no right one among them.
    """
    return [_grade_letter(grader, answer.text, question) for answer, question in zip(answers, questions, strict=True)]


def _grade_letter(grader: MultipleChoice, text: str, question: Question) -> Grade:
    choices = choices_of(grader, question)
    right, chosen = right_choice(grader, question, choices), chosen_of(text, choices)
    if chosen is None:
        return Grade(0.0, f"named no choice: {excerpt(text)}", "format")
    return _grade(choices, right, chosen)


def chosen_of(text: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that an answer names; None where it names none.

    Example:
        >>> [chosen_of(text, ["cat", "dog"]) for text in ("(B) dog", "dog", "The answer is B.", "a dog")]
        [1, 1, 1, None]
    """
    text = text.strip()
    equal = [index for index, choice in enumerate(choices) if choice.strip().casefold() == text.casefold()]
    if equal:
        return equal[0]
    match = LETTER_FIRST.match(text) or LETTER_NAMED.search(text)
    letter = next(filter(None, match.groups())) if match else None
    index = ord(letter.upper()) - ord("A") if letter else len(choices)
    return index if index < len(choices) else None
