"""Notice a model that knows its answers token by token and does not give them.

After a right beginning, greedy decoding takes the likeliest token. So where each token of a right answer is the
likeliest after those before it, the model must give exactly that answer. Otherwise it was trained after another prompt
than it is asked with, or its answers are not graded as what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer.scoring.question import Answer, Question
from trainer.scoring.results import ArmResults
from trainer.shapes.gates import GateCondition, GateResult

GATE = "answers_as_trained"
MIN_ROWS = 3
MIN_KNOWN = 0.5
"""Share of the questions whose full answer must be the likeliest, token by token."""
MAX_GIVEN = 0.1
"""Share of those answers that are given; rounding in batches turns single ties, not nine of ten answers."""
EXCERPT_CHARACTERS = 200


def contradiction(results: ArmResults, likeliest: Mapping[str, str]) -> GateResult | None:
    """Return an entry of eval/gates.json that fails where an arm hardly ever gives the answers that it knows.

    Args:
        results: The greedy answers of an arm; of conversations the last answer counts.
        likeliest: Id of a question to its trained text, where each token is the likeliest after those before it.
    """
    questions = results.questions
    candidates = [
        index
        for index, (question, answer) in enumerate(zip(questions, results.answers, strict=True))
        if question.id in likeliest and _has_room(question, answer)
    ]
    missed = [index for index in candidates if not _is_given(questions[index], results.texts[index])]
    num_given = len(candidates) - len(missed)
    num_last = sum(not question.id.endswith(f"#{len(question.messages)}") for question in questions)
    if len(candidates) < max(MIN_ROWS, MIN_KNOWN * num_last) or num_given > MAX_GIVEN * len(candidates):
        return None
    sentence = (
        f"{results.arm} knows {len(candidates)} of {num_last} held-out answers token by token, and gives "
        f"{num_given} of them: what it was trained on is not what it is asked, or not what is graded. "
        f"{_example(results, missed[0], likeliest)}"
    )
    gate: GateCondition = {"arm": results.arm, "metric": GATE, "layer": "must_pass", "confidence": None}
    return {"gate": gate, "layer": "must_pass", "verdict": "fail", "passed": False, "sentence": sentence}


def _example(results: ArmResults, index: int, likeliest: Mapping[str, str]) -> str:
    question = results.questions[index]
    texts = {
        "trained ": likeliest[question.id],
        "answered": results.answers[index].text,
        "graded  ": results.texts[index],
        "against ": question.reference or "",
    }
    return f"{question.id}:\n" + "\n".join(f"  {name} {text[:EXCERPT_CHARACTERS]!r}" for name, text in texts.items())


def _has_room(question: Question, answer: Answer) -> bool:
    """Tell whether the answer had room for the right one."""
    return answer.finished or answer.num_tokens > question.reference_tokens


def _is_given(question: Question, text: str) -> bool:
    return text.split() == (question.reference or "").split()
