"""How far stated confidence can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.recipe.metrics import Confidence
from trainer.scoring.graders.expected import applies, expected
from trainer.scoring.graders.failures import shown
from trainer.scoring.graders.json_text import canonical, parse
from trainer.scoring.graders.structured import equal_values
from trainer.scoring.question import Answer, Grade, Question

Floats = NDArray[np.float64]


def grade_confidence(grader: Confidence, answer: Answer, question: Question) -> Grade:
    """Return the squared distance of the confidence from being right (0 is best); 1 where none can be read.

    Source: Brier, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Raises:
        DataError: The expected value does not hold the answer's field.
    """
    stated = _stated(grader, answer)
    if stated is None:
        return Grade(1.0, f"no confidence from 0 to {grader.scale:g} in {shown(answer.text)}", "format")
    is_right = _is_right(grader, answer, question)
    distance = (stated - is_right) ** 2
    reason = f"{'right' if is_right else 'wrong'} with confidence {stated:.2g}" if distance else ""
    return Grade(distance, reason, None if is_right else "knowledge")


def calibration(grader: Confidence, answers: Sequence[Answer], questions: Sequence[Question]) -> Floats:
    """Return (rows, 2) stated confidence in 0..1 and 1 where right; NaN where no confidence is stated."""
    pairs = np.full((len(answers), 2), np.nan)
    for row, (answer, question) in enumerate(zip(answers, questions, strict=True)):
        stated = _stated(grader, answer) if applies(grader, question) else None
        if stated is not None:
            pairs[row] = stated, _is_right(grader, answer, question)
    return pairs


def expected_calibration_error(pairs: Floats, bins: int) -> float:
    """Return the mean distance between confidence and share right over bins of equal width, weighted by rows.

    Args:
        pairs: (rows, 2) of `calibration`; rows with NaN do not count.
        bins: Number of bins.

    Returns:
        0 to 1; NaN without rows.

    Source: Naeini et al., AAAI 2015; Guo et al., https://arxiv.org/abs/1706.04599, equation 3.
    """
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    if not len(pairs):
        return math.nan
    # bins are open below and closed above, as in Guo et al.; 0 belongs to the first
    place = np.clip(np.ceil(pairs[:, 0] * bins).astype(int) - 1, 0, bins - 1)
    totals = np.zeros((bins, 2))
    np.add.at(totals, place, pairs)
    return float(np.abs(totals[:, 0] - totals[:, 1]).sum() / len(pairs))


def _object(text: str) -> dict[str, Any]:
    try:
        value = parse(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _stated(grader: Confidence, answer: Answer) -> float | None:
    value = _object(answer.text).get(grader.field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= grader.scale:
        return None
    return value / grader.scale


def _is_right(grader: Confidence, answer: Answer, question: Question) -> bool:
    found, wanted = _object(answer.text), expected(grader, question)
    reference = _object(wanted) if isinstance(wanted, str) else wanted
    if grader.answer_field is None:
        if not isinstance(reference, dict) or not reference:
            raise _no_answer(grader, question, "a JSON object")
        return canonical(_without(grader, found)) == canonical(_without(grader, reference))
    if isinstance(reference, dict) and grader.answer_field in reference:
        wanted = reference[grader.answer_field]
    elif isinstance(wanted, dict) or reference:
        raise _no_answer(grader, question, f"the field {grader.answer_field}")
    return equal_values(found.get(grader.answer_field), wanted, "normalised")


def _no_answer(grader: Confidence, question: Question, what: str) -> DataError:
    return DataError(
        f"{question.id}: metric {grader.title} compares with {what}, which the expected value lacks",
        hint="name the answer's field in `answer_field`, and the row's field with the right answer in `key`",
    )


def _without(grader: Confidence, value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != grader.field}
