"""Notice a model that knows its answers token by token and does not give them.

After a right beginning, the likeliest token is what greedy decoding takes. So where each token of a right answer is the
likeliest after those before it, the model must give exactly that answer. If it does not, it was trained after another
prompt than it is asked with, or its answers are graded as something else than what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.scoring.question import Answer, Question
from trainer.scoring.results import ArmResults

GATE = "answers_as_trained"
MIN_ROWS = 3
MIN_KNOWN = 0.5
"""Share of the questions whose whole answer must be the likeliest, token by token."""
MAX_GIVEN = 0.1
"""Share of those answers that are given; rounding in batches turns single ties, not nine of ten answers."""
SHOWN = 200


def contradiction(
    arm: str, questions: Sequence[Question], results: ArmResults, known: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return an entry of eval/gates.json that fails where an arm hardly ever gives the answers that it knows.

    Args:
        arm: Its name.
        questions: What was asked; of conversations the last answer counts.
        results: What it answered, greedily.
        known: Question -> trained text, where each of its tokens is the likeliest after those before it.
    """
    asked = enumerate(zip(questions, results.answers, strict=True))
    places = [place for place, (question, answer) in asked if question.id in known and _is_whole(question, answer)]
    missed = [place for place in places if not _is_given(questions[place], results.texts[place])]
    num_given = len(places) - len(missed)
    num_last = sum(not question.id.endswith(f"#{len(question.messages)}") for question in questions)
    if len(places) < max(MIN_ROWS, MIN_KNOWN * num_last) or num_given > MAX_GIVEN * len(places):
        return None
    question, answer = questions[missed[0]], results.answers[missed[0]]
    sentence = (
        f"{arm} knows {len(places)} of {num_last} held-out answers token by token, and gives {num_given} of "
        "them: what it was trained on is not what it is asked, or not what is graded. "
        f"{question.id}:\n  trained  {known[question.id][:SHOWN]!r}\n  answered {answer.text[:SHOWN]!r}\n"
        f"  graded   {results.texts[missed[0]][:SHOWN]!r}\n  against  {(question.reference or '')[:SHOWN]!r}"
    )
    gate = {"arm": arm, "metric": GATE, "layer": "must_pass", "confidence": None}
    return {"gate": gate, "layer": "must_pass", "verdict": "fail", "passed": False, "sentence": sentence}


def _is_whole(question: Question, answer: Answer) -> bool:
    """Whether the answer had room for the right one."""
    return answer.finished or answer.num_tokens > question.reference_tokens


def _is_given(question: Question, text: str) -> bool:
    return text.split() == (question.reference or "").split()
