"""Grade answers by IFEval's instructions."""

from __future__ import annotations

from trainer.errors import DataError
from trainer.recipe.metrics import IfEval
from trainer.scoring.graders.expected import field
from trainer.scoring.graders.failures import without_answer
from trainer.scoring.graders.ifeval.checks import CHECKS, follows, follows_loosely
from trainer.scoring.question import Answer, Grade, Question


def grade_ifeval(grader: IfEval, answer: Answer, question: Question) -> Grade:
    """Mark the instructions of a row.

    Raises:
        DataError: The row's instructions cannot be read.
    """
    instructions = _instructions(grader, question)
    check = follows if grader.mode == "strict" else follows_loosely
    try:
        broken = [name for name, arguments in instructions if not check(answer.text, name, arguments)]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{question.id}: the kwargs do not fit the instructions: {error}", hint="write them as IFEval does"
        ) from error
    if not broken:
        return Grade(1.0)
    score = 0.0 if grader.level == "prompt" else 1 - len(broken) / len(instructions)
    return Grade(score, f"not followed: {', '.join(broken)}", without_answer(answer))


def _instructions(grader: IfEval, question: Question) -> list[tuple[str, dict[str, object]]]:
    names = field(grader, question, "instruction_id_list")
    arguments = field(grader, question, "kwargs")
    names = names if isinstance(names, list) else []
    arguments = arguments if isinstance(arguments, list) else []
    if not len(names) == len(arguments) > 0 or not all(isinstance(value, dict | None) for value in arguments):
        raise DataError(
            f"{question.id}: instruction_id_list and kwargs must be lists of one length, kwargs of objects",
            hint='for example "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]',
        )
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise DataError(
            f"{question.id}: there is no instruction {unknown[0]!r}", hint=f"one of: {', '.join(sorted(CHECKS))}"
        )
    return [(name, value or {}) for name, value in zip(names, arguments, strict=True)]
