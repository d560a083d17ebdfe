"""Read the expected value of a row, and tell which rows a metric looks at."""

from __future__ import annotations

from trainer.errors import DataError
from trainer.recipe.metric import Keyed, Metric
from trainer.scoring.question import Question


def applies(grader: Metric, question: Question) -> bool:
    """Tell whether the fields of the row are as the metric's `when` says."""
    return all(question.row.get(field) == value for field, value in (grader.when or {}).items())


def field(grader: Metric, question: Question, key: str) -> object:
    """Return a field of the row that a metric needs.

    Raises:
        DataError: The row has no such field.
    """
    if key not in question.row:
        available = ", ".join(sorted(question.row)) or "none"
        raise DataError(
            f"{question.id}: metric {grader.title} needs the field `{key}`; the row has: {available}",
            hint="add the field to the row, name another one in the metric, or limit the metric to some rows by `when`",
        )
    return question.row[key]


def expected_value(grader: Keyed, question: Question) -> object:
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
    value = expected_value(grader, question)
    texts = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if not texts:
        raise DataError(
            f"{question.id}: the list that metric {grader.title} compares with is empty", hint="give at least one text"
        )
    return texts
