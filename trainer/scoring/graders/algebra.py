"""Grade mathematical answers by math-verify, in a process that is limited and can be replaced."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from trainer.recipe.executed import MathAnswer
from trainer.scoring.graders.expected import expected_texts
from trainer.scoring.graders.failures import excerpt, failure_of
from trainer.scoring.graders.final_answer import MAX_CHARACTERS, marked, sentences, without_remarks
from trainer.scoring.graders.normalise import normalise
from trainer.scoring.graders.quantities import quantities
from trainer.scoring.isolated.worker import IsolatedWorker, Reply
from trainer.scoring.question import Answer, Grade, Question

MEMORY_MIB = 2048
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def grade_math(grader: MathAnswer, answers: Sequence[Answer], questions: Sequence[Question]) -> list[Grade]:
    """Mark whether answers are mathematically the expected ones; words are compared as words.

    Raises:
        DataError: A row has no expected answer.
    """
    with IsolatedWorker("mathematics", memory_mib=MEMORY_MIB) as worker:
        return [_grade(grader, *pair, worker) for pair in zip(answers, questions, strict=True)]


def _grade(grader: MathAnswer, answer: Answer, question: Question, worker: IsolatedWorker) -> Grade:
    expected = expected_texts(grader, question)
    forms = _forms(answer.text)
    replies: list[Reply] = []
    for text in expected:
        right = _forms(text)
        if _same_text(forms[0], right[0]) or _same_number(forms[0], right[0]):
            return Grade(1.0)
        replies.append(worker.ask({"answers": forms, "expected": right}, grader.timeout_s))
        if replies[-1].get("equal"):
            return Grade(1.0)
    return _wrong(answer, expected, replies)


def _same_text(text: str, expected: str) -> bool:
    first, second = (_TEXT.sub(r"\1", normalise(form).strip(" $.")) for form in (text, expected))
    return first == second


def _same_number(text: str, expected: str) -> bool:
    """Tell whether both are one equal number and nothing else: math-verify does not know words such as million.

    Example:
        >>> _same_number("2 million", "$2,000,000$"), _same_number("2 million people", "2000000")
        (True, False)
    """
    numbers = [quantities(form.strip(" $.")) for form in (text, expected)]
    are_bare = all(
        len(values) == 1 and values[0].start == 0 and values[0].end == len(form.strip(" $."))
        for values, form in zip(numbers, (text, expected), strict=True)
    )
    return are_bare and math.isclose(numbers[0][0].value, numbers[1][0].value, rel_tol=1e-12)


def _wrong(answer: Answer, expected: list[str], replies: list[Reply]) -> Grade:
    fault = next((reply["error"] for reply in replies if "error" in reply), None)
    if fault is not None:
        return Grade(0.0, f"cannot be compared with {excerpt(expected[0])}: {fault}", "other")
    reason = f"expected {excerpt(expected[0])}, got {excerpt(answer.text[-MAX_CHARACTERS:])}"
    failure = failure_of(answer, expected)
    if failure in ("knowledge", "style"):
        failure = "knowledge" if any(reply.get("read") for reply in replies) else "format"
    return Grade(0.0, reason, failure)


def _forms(text: str) -> list[str]:
    """Return the parts that may be the final answer, the likeliest first: never more than three."""
    text = text[-MAX_CHARACTERS:].strip()
    part = marked(text)
    parts = sentences(part) if part is not None else []
    closing = without_remarks(text)
    forms = [*parts[:1], *([part] if part else []), *(sentences(closing)[-1:] if part is None else []), closing]
    return list(dict.fromkeys(form.strip().rstrip(".") for form in forms if form.strip()))[:3] or [""]
