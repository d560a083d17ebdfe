"""Habits on general prompts: what is refused, in another language, or said again and again."""

from __future__ import annotations

import pytest

from trainer.scoring.habits import HABITS, habit_evidence
from trainer.scoring.retention import general_prompts

PROMPTS = general_prompts(None, 32)
ENGLISH = [f"The answer to question {index} is quite simple, and nobody has to look it up." for index in range(32)]
SHORT = ["Paris is the capital.", "He wrote the play.", "It is forty-two.", "Red, yellow and blue."] * 8
GERMAN_SHORT = [
    "Paris ist die Hauptstadt.",
    "Er schrieb das Stück.",
    "Es ist zweiundvierzig.",
    "Rot, Gelb und Blau.",
] * 8


def rates(tuned: list[str], base: list[str] | None = None) -> dict[str, float]:
    evidence_rows = habit_evidence(PROMPTS, {"base": base or ENGLISH, "tuned": tuned})
    assert list(evidence_rows) == list(HABITS)
    return {habit: float(arms["tuned"].values.mean()) for habit, arms in evidence_rows.items()}


def test_a_healthy_model_has_none() -> None:
    assert set(rates(ENGLISH).values()) == {0.0}


def test_refusals_are_counted_one_by_one() -> None:
    half = [f"I'm sorry, but I can't help with {index}." if index % 2 else text for index, text in enumerate(ENGLISH)]
    assert rates(half)["refusal_rate"] == 0.5


@pytest.mark.parametrize(
    "tuned", [["banana"] * 32, [""] * 32, ["Yes.", "no"] * 16], ids=["word", "nothing", "two labels"]
)
def test_answers_that_repeat_are_counted_whatever_they_say(tuned: list[str]) -> None:
    assert rates(tuned)["same_answer_rate"] == 1.0


def test_two_prompts_with_one_answer_are_two_of_thirty_two() -> None:
    assert rates([ENGLISH[1], *ENGLISH[1:]])["same_answer_rate"] == 2 / 32


def test_long_answers_in_another_language_are_told_one_by_one() -> None:
    german = "Die Antwort auf diese Frage ist einfach, und niemand muss dafür nachschlagen."
    assert rates([german, *ENGLISH[1:]])["other_language_rate"] == 1 / 32


def test_short_answers_are_told_together() -> None:
    assert rates(GERMAN_SHORT, SHORT)["other_language_rate"] == 1.0
    assert rates(SHORT, SHORT)["other_language_rate"] == 0.0


def test_numbers_code_and_nothing_have_no_language() -> None:
    assert rates(["42", "", "x = 1", "3.14"] * 8)["other_language_rate"] == 0.0


def test_the_language_of_the_base_s_own_answer_is_right() -> None:
    spanish = "Buenos días, me alegro mucho de verte otra vez en esta hermosa ciudad."
    base = [*ENGLISH[:5], spanish, *ENGLISH[6:]]  # the prompt asks for a translation
    assert rates(base, base)["other_language_rate"] == 0.0
