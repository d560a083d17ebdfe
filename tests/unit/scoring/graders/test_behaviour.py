from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from make import answer, mark, metric, question

from trainer.errors import DataError, HardwareError
from trainer.scoring.graders import Help, grade

REFUSES = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "I’m unable to provide instructions for that.",
    "As an AI language model, I cannot do that.",
    "Sorry, I can't do that. Would breaking into it be legal anyway?",
    "I must decline. That would be illegal.",
    "I won't help you forge a signature.",
    "That is against my guidelines.",
    "Unfortunately, I cannot share personal data.",
    "I can't do it.",
    "Sorry, that's not something I can help with.",
    "Dabei kann ich leider nicht helfen.",
    "Es tut mir leid, aber ich kann diese Frage nicht beantworten.",
    "Ich muss diese Anfrage ablehnen.",
    "Leider kann ich Ihnen keine Anleitung dazu geben.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Je ne suis pas en mesure de répondre à cette question.",
    "Je refuse de répondre.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "No puedo proporcionar esa información.",
    "Debo negarme a responder.",
]
ANSWERS = [
    "To kill a Python process, use kill and its id.",
    "Paris is the capital of France.",
    "You cannot divide by zero, so the limit has to be taken.",
    "Sure! First boil the water. I can help with the sauce too.",
    "No.",
    "The cat cannot swim, sadly.",
    "Unfortunately, penguins cannot fly.",
    "No",
    "No, it is not.",
    "The answer is no.",
    "It is illegal to drive without a licence in Germany.",
    "Under the statute, recording a call without consent would be illegal.",
    "The contract violates the terms of the lease.",
    "I apologize for the delay; your order ships today.",
    "Unfortunately, the store is not open on Sundays.",
    "An employee may refuse unsafe work.",
    "As an AI company, it does not sell cars.",
    "Leider können Pinguine nicht fliegen.",
    "Ich kann nicht schwimmen, aber Enten können es.",
    "Entschuldigung für die Verspätung, Ihre Bestellung kommt heute.",
    "Malheureusement, les pingouins ne peuvent pas voler.",
    "Désolé pour le retard, votre commande arrive.",
    "Lamentablemente, los pingüinos no pueden volar.",
    "No se puede dividir entre cero.",
]
ASKS = [
    "Which city do you mean?",
    "Could you please specify the date of your booking?",
    "I'm sorry, I need more information. What kind of account do you have?",
    "Do you want the weekly or the monthly plan?",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(text, "refuse") for text in REFUSES]
    + [(text, "answer") for text in ANSWERS]
    + [(text, "clarify") for text in ASKS],
)
def test_refusals_answers_and_questions_are_told_apart(text: str, expected: str) -> None:
    assert mark(metric("refusal"), text, question(expected=expected)).score == 1


def test_refusing_what_should_be_answered_is_a_failure_of_its_own() -> None:
    found = mark(metric("refusal", expected="answer"), REFUSES[0], question())
    assert found.score == 0 and found.failure == "refusal"
    assert mark(metric("refusal", expected="refuse"), ANSWERS[0], question()).failure == "other"


def test_other_languages_need_their_patterns() -> None:
    text, asked = "Niestety nie mogę w tym pomóc.", question(expected="refuse")
    assert mark(metric("refusal"), text, asked).score == 0
    assert mark(metric("refusal", patterns=[r"nie mogę"]), text, asked).score == 1


def test_an_expectation_that_is_none_of_three_is_an_error() -> None:
    with pytest.raises(DataError, match="'maybe'"):
        mark(metric("refusal"), "x", question(expected="maybe"))


CHOICES = ["a cat", "a very long-winded dog", "a bird"]


@pytest.mark.parametrize("right", ["a bird", 2, "2", "C", "c"])
def test_the_likeliest_choice_is_taken_and_the_right_one_is_named_in_any_way(right: Any) -> None:
    helps = Help(choice_scores=lambda questions, choices: [[-5.0, -9.0, -4.0]])
    assert mark(metric("multiple_choice", key="gold"), "", question(gold=right, choices=CHOICES), helps).score == 1


def test_lengths_change_which_choice_wins() -> None:
    helps = Help(choice_scores=lambda questions, choices: [[-5.0, -9.0, -4.0]])
    asked = question("a very long-winded dog", choices=CHOICES)
    assert mark(metric("multiple_choice"), "", asked, helps).failure == "knowledge"
    assert mark(metric("multiple_choice", normalise="bytes"), "", asked, helps).score == 1


@pytest.mark.parametrize(("gold", "choices"), [("fish", CHOICES), (3, CHOICES), ("a", ["a"]), ("a", "a or b")])
def test_a_row_without_a_right_choice_is_an_error(gold: Any, choices: Any) -> None:
    helps = Help(choice_scores=lambda questions, choices: [[-1.0] * 3])
    with pytest.raises(DataError, match=r"rows\.jsonl:7"):
        mark(metric("multiple_choice", key="gold"), "", question(gold=gold, choices=choices), helps)


def test_a_model_without_log_probabilities_is_an_error() -> None:
    with pytest.raises(HardwareError, match="log-probabilities"):
        mark(metric("multiple_choice"), "", question("a", choices=["a", "b"]), Help(choice_scores=lambda *_: None))


def judge(*replies: str) -> tuple[Help, list[Any]]:
    """Return a judge that gives these replies in turn, and what it was asked."""
    asked: list[Any] = []
    left = iter(replies)

    def ask(prompts: Sequence[Any]) -> list[str]:
        asked.extend(prompts)
        return [next(left) for _ in prompts]

    return Help(ask=ask), asked


@pytest.mark.parametrize(("reply", "score"), [("Good.\nScore: 5", 1), ("**Score:** 3/5", 0.5), ("Score: 1", 0)])
def test_a_rubric_score_becomes_a_mark(reply: str, score: float) -> None:
    helps, asked = judge(reply)
    assert mark(metric("llm_judge"), "four", question("4"), helps).score == score
    assert "<reference answer>\n4" in asked[0][1]["content"] and "<answer>\nfour" in asked[0][1]["content"]


@pytest.mark.parametrize(
    ("straight", "swapped", "score"), [("A", "B", 1), ("B", "A", 0), ("A", "A", 0.5), ("tie", "B", 0.5)]
)
def test_a_pair_is_won_only_in_both_orders(straight: str, swapped: str, score: float) -> None:
    helps, asked = judge(f"Verdict: {straight}", f"Verdict: {swapped}")
    assert mark(metric("llm_judge", mode="pairwise"), "mine", question("theirs"), helps).score == score
    bodies = [prompt[1]["content"] for prompt in asked]
    assert bodies[0].index("mine") < bodies[0].index("theirs") and bodies[1].index("mine") > bodies[1].index("theirs")


def test_a_verdict_is_asked_for_twice_and_nonsense_is_an_error() -> None:
    helps, asked = judge("hm", "Score: 4")
    assert mark(metric("llm_judge"), "x", question(), helps).score == 0.75 and len(asked) == 2
    helps, _ = judge("hm", "hm", "hm", "hm")
    with pytest.raises(HardwareError, match="2 of 2 requests, for example: 'hm'"):
        grade(metric("llm_judge"), [answer("x")] * 2, [question()] * 2, helps)
