"""Choices by letter, for models that tell no log-probabilities."""

from __future__ import annotations

import pytest

from trainer.recipe.metrics import MultipleChoice
from trainer.scoring.graders.choice import chosen_of, grade_letters, with_letters
from trainer.scoring.question import Answer, Question, prompt_of

CHOICES = ["a horse", "Paris", "42", "I"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        (" b \n", 1),
        ("b)", 1),
        ("(C)", 2),
        ("**D**", 3),
        ("B. Paris", 1),
        ("B: Paris, since it is the capital", 1),
        ("paris", 1),
        ("42", 2),
        ("The answer is B", 1),
        ("The correct answer is: **C**.", 2),
        ("Answer: B because it is the capital", 1),
        ("I would take option C", 2),
        ("I", 3),
        ("The answer is a mammal", None),
        ("A horse, I think", None),
        ("a horse", 0),
        ("I do not know", None),
        ("because", None),
        ("E", None),
        ("", None),
        ("Ω", None),
    ],
)
def test_a_choice_is_named_by_letter_or_by_text(text: str, index: int | None) -> None:
    assert chosen_of(text, CHOICES) == index


def question(**row: object) -> Question:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital?"}]
    return Question("s/1", messages, "Paris", {"choices": CHOICES, **row})


def test_choices_are_listed_after_what_was_asked_last() -> None:
    grader = MultipleChoice()
    item = with_letters(grader, question(), prompt_of(question()))
    assert item.messages[0] == {"role": "system", "content": "Be brief."} and len(item.messages) == 2
    assert item.messages[-1]["content"].startswith("Capital?\n\nA. a horse\nB. Paris\nC. 42\nD. I\n\n")
    assert question().messages[-1]["content"] == "Capital?"


def test_right_wrong_and_none_are_told_apart() -> None:
    marks = grade_letters(
        MultipleChoice(), [Answer(text, 1, finished=True) for text in ("B", "C", "hm")], [question()] * 3
    )
    assert [(mark.score, mark.failure) for mark in marks] == [(1.0, None), (0.0, "knowledge"), (0.0, "format")]
    assert "'Paris'" in marks[1].reason and "'42'" in marks[1].reason and "'hm'" in marks[2].reason
