"""What a row expects, and which rows a metric looks at."""

from __future__ import annotations

from typing import Any

from trainer.errors import DataError
from trainer.recipe.metric import Keyed, Metric
from trainer.scoring.question import Question


def applies(grader: Metric, question: Question) -> bool:
    """Tell whether the fields of the row are as the metric's `when` says."""
    return all(question.row.get(field) == value for field, value in (grader.when or {}).items())


def field(grader: Metric, question: Question, key: str) -> Any:
    """Return a field of the row that a metric needs.

    Raises:
        DataError: The row has no such field.
    """
    if key not in question.row:
        known = ", ".join(sorted(question.row)) or "none"
        raise DataError(
            f"{question.id}: metric {grader.title} needs the field `{key}`; the row has: {known}",
            hint="add the field to the row, name another one in the metric, or limit the metric to some rows by `when`",
        )
    return question.row[key]


def expected(grader: Keyed, question: Question) -> Any:
    """Return the value of the metric's `key`, or else the reference answer.

    Raises:
        DataError: There is neither.
    """
    if grader.key is not None:
        return field(grader, question, grader.key)
    if question.reference is None:
        raise DataError(
            f"{question.id}: metric {grader.title} compares with a reference answer, and the row has none",
            hint="add `reference` to the item, or name the field with the expected value in the metric's `key`",
        )
    return question.reference


def expected_texts(grader: Keyed, question: Question) -> list[str]:
    """Return the expected value as texts: several where the field holds a list.

    Raises:
        DataError: There is none.
    """
    value = expected(grader, question)
    texts = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if not texts:
        raise DataError(
            f"{question.id}: the list that metric {grader.title} compares with is empty", hint="give at least one text"
        )
    return texts
