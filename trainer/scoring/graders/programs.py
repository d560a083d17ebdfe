"""Grade programs by their tests, each run in a confined process of its own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from trainer.errors import DataError, HardwareError
from trainer.recipe.executed import Code
from trainer.scoring.graders.expected import field
from trainer.scoring.graders.refusal import refuses
from trainer.scoring.isolated.worker import IsolatedWorker, Reply
from trainer.scoring.question import Answer, Grade, Question
from trainer.shapes.scores import FailureKind

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
MAX_CHARACTERS = 200_000
SPARE_CPU_S = 2
"""Processor time for the start of the interpreter."""


def check_code(grader: Code, questions: Sequence[Question]) -> None:
    """Refuse rows without tests, and a system that cannot confine programs.

    Raises:
        DataError: A row has no tests, or they are no Python.
        HardwareError: The system has no filter for system calls.
    """
    for question in questions:
        tests = tests_of(grader, question)
        try:
            compile(tests, "tests", "exec")
        except (SyntaxError, ValueError, RecursionError) as error:
            raise DataError(f"{question.id}: `{grader.tests}` is no Python: {error}", hint="correct the row") from error
    if questions:
        _run(grader, "", "")


def grade_code(grader: Code, answers: Sequence[Answer], questions: Sequence[Question]) -> list[Grade]:
    """Mark whether each answer's code passes the tests of its row.

    Raises:
        DataError: A row has no tests.
        HardwareError: The system has no filter for system calls.
    """
    return [_grade(grader, *pair) for pair in zip(answers, questions, strict=True)]


def _grade(grader: Code, answer: Answer, question: Question) -> Grade:
    if not answer.text.strip():
        return Grade(0.0, "empty", "other")
    reply = _run(grader, program_of(grader, answer.text, question), tests_of(grader, question))
    if reply.get("passed"):
        return Grade(1.0)
    reason = str(reply.get("error") or reply["reason"])
    return Grade(0.0, reason, _failure(answer, reply, reason))


def _failure(answer: Answer, reply: Reply, reason: str) -> FailureKind:
    if not answer.finished:
        return "other"
    if refuses(answer.text):
        return "refusal"
    is_no_code = not reply.get("in_tests") and reason.startswith(("SyntaxError", "IndentationError"))
    return "format" if is_no_code else "knowledge"


def code_in(text: str, languages: set[str], word: str | None = None) -> str:
    """Return the code of an answer: of its fences, else all of it.

    Args:
        text: The answer.
        languages: Names of the language, in small letters; fences of another one do not count where one has it.
        word: A word, such as a function's name: of several fences the first that has it counts, else the longest.
    """
    text = text[:MAX_CHARACTERS]
    blocks = [(language.lower(), code) for _, language, code in _FENCE.findall(text)]
    chosen = [code for language, code in blocks if language in languages] or [code for _, code in blocks]
    if not chosen:
        return text
    having = [code for code in chosen if word is not None and re.search(rf"\b{re.escape(word)}\b", code)]
    return having[0] if having else max(chosen, key=len)


def program_of(grader: Code, text: str, question: Question) -> str:
    """Return the code of an answer, after the row's code that stands before it."""
    entry = question.row.get(grader.entry_point)
    code = code_in(text, {"python", "py", "python3"}, str(entry) if entry else None)
    if grader.prefix is None:
        return textwrap.dedent(code)
    before = str(field(grader, question, grader.prefix))
    starts_anew = entry is not None and f"def {entry}" in code
    if not starts_anew and before.rstrip(" ").endswith("\n") and code[:1].strip():
        code = textwrap.indent(code, "    ")  # the first line of a body that lost its indentation
    return f"{before}\n{code}" if starts_anew else before + code


def tests_of(grader: Code, question: Question) -> str:
    """Return the tests of a row as Python.

    Raises:
        DataError: It has none.
    """
    value = field(grader, question, grader.tests)
    values: list[object] = value if isinstance(value, list) else [value]
    lines = [line for line in values if isinstance(line, str) and line.strip()]
    if not lines or len(lines) < len(values):
        raise DataError(
            f"{question.id}: `{grader.tests}` holds no tests", hint="give Python text, or a list of asserts"
        )
    tests = "\n".join(lines)
    entry = question.row.get(grader.entry_point)
    calls_check = "def check(" in tests and "\ncheck(" not in tests
    return f"{tests}\ncheck({entry})" if calls_check and entry else tests


def _run(grader: Code, program: str, tests: str) -> Reply:
    cpu_s = int(grader.timeout_s) + SPARE_CPU_S
    with IsolatedWorker("programs", memory_mib=grader.memory_mib, cpu_s=cpu_s, must_confine=True) as worker:
        reply = worker.ask({"program": program, "tests": tests}, grader.timeout_s)
    if "unconfined" in reply:
        raise HardwareError(
            f"metric {grader.title}: {reply['unconfined']}", hint="leave the metric out, or evaluate on Linux x86_64"
        )
    return reply
