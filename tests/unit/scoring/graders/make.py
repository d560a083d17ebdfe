"""Questions and answers in few words."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from trainer.recipe.metrics import Grader
from trainer.scoring.graders import GraderServices, grade
from trainer.scoring.question import Answer, Grade, Question


def metric(kind: str, **keys: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(Grader)
    return adapter.validate_python({"kind": kind, **keys})


def answer(text: str, **keys: Any) -> Answer:
    return Answer(**{"text": text, "num_tokens": len(text.split()), "finished": True, **keys})


def question(reference: str | None = None, message: Any = None, **row: Any) -> Question:
    return Question("rows.jsonl:7", [{"role": "user", "content": "?"}], reference, row, reference_message=message)


def mark(grader: Any, text: str | Answer, item: Question, help: GraderServices | None = None) -> Grade:
    (result,) = grade(grader, [answer(text) if isinstance(text, str) else text], [item], help or GraderServices())
    assert result is not None
    return result
