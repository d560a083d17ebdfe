"""Multiple choice for models that do not tell log-probabilities: the choices are listed, the letter is read."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import replace

from trainer.recipe.metrics import MultipleChoice
from trainer.scoring.graders.choice import choices_of, right_choice
from trainer.scoring.graders.failures import shown
from trainer.scoring.question import Answer, Grade, PromptRequest, Question

WANTED = "Answer with the letter of the right choice and nothing else."
ALONE = re.compile(r"[(\[*]*([A-Z])(?:[)\].:,*]|\s*$)|[(\[*]*([a-z])[)\].:*]*\s*$")
"""A letter that the answer begins with; a small one may be a word unless it is all there is."""
SAID = re.compile(r"\b(?i:answer|choice|option)\s*(?i:is)?\s*:?\s*[(\[*]*([A-Z])\b")
"""A letter named later on: a capital, as "the answer is a mammal" names none."""


def lettered(grader: MultipleChoice, question: Question, asked: PromptRequest) -> PromptRequest:
    """Put the choices of a question, A to Z, after what was asked last.

    Raises:
        DataError: The row has no choices.
    """
    pairs = zip(string.ascii_uppercase, choices_of(grader, question), strict=False)
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in pairs)
    last = asked.messages[-1]
    content = f"{last.get('content') or ''}\n\n{listed}\n\n{WANTED}"
    return replace(asked, messages=[*asked.messages[:-1], {**last, "content": content}])


def grade_letters(grader: MultipleChoice, answers: Sequence[Answer], questions: Sequence[Question]) -> list[Grade]:
    """Mark whether the right choice was named, by its letter or its text.

    Raises:
        DataError: A row has no choices, or no right one among them.
    """
    return [_grade(grader, answer.text, question) for answer, question in zip(answers, questions, strict=True)]


def _grade(grader: MultipleChoice, text: str, question: Question) -> Grade:
    choices = choices_of(grader, question)
    right, chosen = right_choice(grader, question, choices), chosen_of(text, choices)
    if chosen == right:
        return Grade(1.0)
    if chosen is None:
        return Grade(0.0, f"named no choice: {shown(text)}", "format")
    return Grade(0.0, f"expected {shown(choices[right])}, chose {shown(choices[chosen])}", "knowledge")


def chosen_of(text: str, choices: Sequence[str]) -> int | None:
    """Return the place of the choice that an answer names; None where it names none."""
    said = text.strip()
    same = [place for place, choice in enumerate(choices) if choice.strip().casefold() == said.casefold()]
    if same:
        return same[0]
    found = ALONE.match(said) or SAID.search(said)
    letter = next(filter(None, found.groups())) if found else None
    place = ord(letter.upper()) - ord("A") if letter else len(choices)
    return place if place < len(choices) else None
