"""Grade stated confidence, and measure how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from trainer.errors import DataError
from trainer.recipe.metrics import Confidence
from trainer.scoring.graders.expected import applies, expected_value
from trainer.scoring.graders.failures import excerpt
from trainer.scoring.graders.fields import equal_values
from trainer.scoring.graders.json_text import canonical, parse
from trainer.scoring.question import Answer, Grade, Question
from trainer.scoring.statistics.inference import Floats


def grade_confidence(grader: Confidence, answer: Answer, question: Question) -> Grade:
    """Return the squared distance of the confidence from being right (0 is best); 1 where none can be read.

    Of a list of objects it is the mean over its objects.

    Raises:
        DataError: The expected value does not hold the answer's field.

    Source: Brier, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    pairs = _pairs(grader, answer, question)
    if not pairs or any(stated is None for stated, _ in pairs):
        return Grade(1.0, f"no confidence from 0 to {grader.scale:g} in {excerpt(answer.text)}", "format")
    distance = sum((stated - is_right) ** 2 for stated, is_right in pairs if stated is not None) / len(pairs)
    statements = "; ".join(
        f"{'right' if is_right else 'wrong'} with confidence {stated:.2g}" for stated, is_right in pairs[:3]
    )
    all_right = all(is_right for _, is_right in pairs)
    return Grade(distance, statements if distance else "", None if all_right else "knowledge")


def calibration(grader: Confidence, answers: Sequence[Answer], questions: Sequence[Question]) -> Floats:
    """Return (statements, 3): stated confidence in 0..1, 1 where right, and the row; one per row, or per object.

    A statement without confidence is NaN in the first two.
    """
    stated: list[tuple[float, float, float]] = []
    for row, (answer, question) in enumerate(zip(answers, questions, strict=True)):
        pairs = _pairs(grader, answer, question) if applies(grader, question) else []
        readable = [(confidence, float(is_right), row) for confidence, is_right in pairs if confidence is not None]
        stated += readable or [(math.nan, math.nan, row)]
    return np.array(stated, np.float64).reshape(-1, 3)


def expected_calibration_error(pairs: Floats, bins: int) -> float:
    """Return the mean distance between confidence and share right over bins of equal width, weighted by rows.

    Args:
        pairs: (statements, 2 or more) of `calibration`; those with NaN do not count.
        bins: Number of bins.

    Returns:
        0 to 1; NaN without rows.

    Example: right with 0.9 and wrong with 0.9 in turn: 0.9 stated, 0.5 right.
        >>> round(expected_calibration_error(np.array([[0.9, 1.0], [0.9, 0.0]]), bins=10), 2)
        0.4

    Source: Naeini et al., AAAI 2015; Guo et al., https://arxiv.org/abs/1706.04599, equation 3.
    """
    pairs = pairs[~np.isnan(pairs).any(axis=1), :2]
    if not len(pairs):
        return math.nan
    # bins are open below and closed above, as in Guo et al.; 0 belongs to the first
    index = np.clip(np.ceil(pairs[:, 0] * bins).astype(int) - 1, 0, bins - 1)
    totals = np.zeros((bins, 2))
    np.add.at(totals, index, pairs)
    return float(np.abs(totals[:, 0] - totals[:, 1]).sum() / len(pairs))


def _value(text: str) -> object:
    try:
        return parse(text)
    except ValueError:
        return None


def _objects(value: object) -> list[dict[str, object]]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def _pairs(grader: Confidence, answer: Answer, question: Question) -> list[tuple[float | None, bool]]:
    """Return the stated confidence of each object of an answer, and whether the object is right."""
    is_right = _judge(grader, question)
    return [(_stated(grader, item), is_right(item)) for item in _objects(_value(answer.text))]


def _stated(grader: Confidence, item: dict[str, object]) -> float | None:
    value = item.get(grader.field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= grader.scale:
        return None
    return value / grader.scale


def _judge(grader: Confidence, question: Question) -> Callable[[dict[str, object]], bool]:
    """Return a test for whether an object is right: one of the expected ones agrees with it.

    Raises:
        DataError: The expected value does not hold the answer's field.
    """
    right = expected_value(grader, question)
    reference = _value(right) if isinstance(right, str) else right
    if grader.answer_field is None:
        if not isinstance(reference, dict | list) or not (_objects(reference) or reference == []):
            raise _no_answer(grader, question, "a JSON object, or a list of them")
        allowed = {canonical(_without(grader, item)) for item in _objects(reference)}
        return lambda item: canonical(_without(grader, item)) in allowed
    name = grader.answer_field
    values = _values(grader, question, name, reference if isinstance(reference, dict | list) else right)
    return lambda item: any(equal_values(item.get(name), value, "normalised") for value in values)


def _values(grader: Confidence, question: Question, name: str, reference: object) -> list[object]:
    """Return the right values of a field: of the expected objects, or the plain values that are expected."""
    objects = _objects(reference)
    if not all(name in item for item in objects):
        raise _no_answer(grader, question, f"the field {name}")
    if objects:
        return [item[name] for item in objects]
    return reference if isinstance(reference, list) else [reference]


def _no_answer(grader: Confidence, question: Question, noun: str) -> DataError:
    return DataError(
        f"{question.id}: metric {grader.title} compares with {noun}, which the expected value lacks",
        hint="name the answer's field in `answer_field`, and the row's field with the right answer in `key`",
    )


def _without(grader: Confidence, value: dict[str, object]) -> dict[str, object]:
    return {key: item for key, item in value.items() if key != grader.field}
