"""Grade JSON answers: validity, schema, and F1 over fields."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import orjson

from trainer import exact_json
from trainer.errors import DataError
from trainer.recipe.metrics import Grader, JsonFields, JsonSchema, ValidJson
from trainer.scoring.graders.expected import applies, expected_value
from trainer.scoring.graders.failures import excerpt, failure_of
from trainer.scoring.graders.fields import ABSENT, FieldTally, compare, summarised
from trainer.scoring.graders.formats import format_checker
from trainer.scoring.graders.json_text import find, is_json, parse
from trainer.scoring.question import Answer, Grade, Question
from trainer.scoring.statistics.inference import Floats
from trainer.shapes.scores import FailureKind

MAX_LISTED = 6
"""Faults of fields that a reason lists."""


class SchemaError(Protocol):
    """The part of jsonschema's `ValidationError` that is used."""

    absolute_path: Sequence[str | int]
    message: str


class Validator(Protocol):
    """The part of jsonschema's validators that is used."""

    def iter_errors(self, instance: object) -> Iterable[SchemaError]:
        """Yield the errors of a value."""


def _unreadable(answer: Answer) -> FailureKind:
    """Sort an answer that is not JSON."""
    failure = failure_of(answer, ["{}"])
    return "format" if failure in ("knowledge", "style") else failure


def grade_valid_json(grader: ValidJson, answer: Answer, question: Question) -> Grade:
    """Mark whether the whole answer is a JSON object or list."""
    if is_json(answer.text):
        return Grade(1.0)
    around = " (there is JSON with text around it)" if find(answer.text) is not None else ""
    return Grade(0.0, f"not JSON: {excerpt(answer.text)}{around}", _unreadable(answer))


def grade_json_schema(grader: JsonSchema, answer: Answer, question: Question) -> Grade:
    """Mark whether the answer is JSON that the schema allows."""
    try:
        value = parse(answer.text)
    except ValueError:
        return Grade(0.0, f"not JSON: {excerpt(answer.text)}", _unreadable(answer))
    fault = schema_fault(grader.definition, value)
    return Grade(0.0, fault, "format") if fault else Grade(1.0)


def schema_fault(schema: object, value: object) -> str:
    """Return why a schema does not allow a value, and where; empty if it allows it.

    Raises:
        DataError: The schema refers to one that is not part of it: nothing is fetched.
    """
    validator = _validator(exact_json.dumps(schema))
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: (len(error.absolute_path), error.message))
    except RecursionError:
        return "it is nested too deeply for its schema"
    except importlib.import_module("referencing").exceptions.Unresolvable as error:
        raise DataError(
            f"the schema refers to {error.ref}, which is not part of it", hint="put it under $defs: nothing is fetched"
        ) from error
    if not errors:
        return ""
    location = "/".join(map(str, errors[0].absolute_path)) or "its top"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"at {location}: {errors[0].message[:200]}{more}"


@cache
def _validator(schema: bytes) -> Validator:
    library = importlib.import_module("jsonschema")  # by name: it is needed only where a schema is
    value = orjson.loads(schema)
    kind = library.validators.validator_for(value, default=library.Draft202012Validator)
    # an empty registry, so that a reference to another address is an error, not a request
    no_addresses = importlib.import_module("referencing").Registry()
    return kind(value, registry=no_addresses, format_checker=format_checker())


def _expected(grader: JsonFields, question: Question) -> object:
    value = expected_value(grader, question)
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise DataError(
            f"{question.id}: metric {grader.title} expects JSON, and the expected value is {excerpt(value)}",
            hint="correct the row, name another field in `key`, or limit the metric to some rows by `when`",
        ) from error


def _stated(grader: JsonFields, answer: Answer) -> object:
    """Return the answer's value; `ABSENT` where it is not JSON."""
    try:
        return parse(answer.text)
    except ValueError:
        value = find(answer.text) if grader.find else None
    return ABSENT if value is None else value


def grade_json_fields(grader: JsonFields, answer: Answer, question: Question) -> Grade:
    """Mark one row's fields.

    Raises:
        DataError: The expected value is not JSON.
    """
    expected = _expected(grader, question)
    value = _stated(grader, answer)
    tally = compare(grader, value, expected)
    score = _score(grader.measure, tally)
    if value is ABSENT:
        content = find(answer.text)
        is_right = content is not None and not _is_wrong(compare(grader, content, expected))
        return Grade(score, f"not JSON: {excerpt(answer.text)}", "style" if is_right else _unreadable(answer))
    return Grade(score, summarised(tally.faults, MAX_LISTED), "knowledge") if _is_wrong(tally) else Grade(score)


def _is_wrong(tally: FieldTally) -> bool:
    return bool(tally.extra or tally.missing)


def _score(measure: str, tally: FieldTally) -> float:
    hits, extra, missing = tally.hits, tally.extra, tally.missing
    total = {"f1": 2 * hits + extra + missing, "precision": hits + extra, "recall": hits + missing}[measure]
    if not total:
        return float(extra == missing == 0)
    return (2 * hits if measure == "f1" else hits) / total


def micro(grader: Grader, answers: Sequence[Answer], questions: Sequence[Question]) -> Floats | None:
    """Count the fields of each row, for F1 over all rows together.

    Returns:
        (rows, 3) true positives, false positives and false negatives, zeros where `when` excludes a row; None for a
        metric that is the mean of its rows' marks.

    Raises:
        DataError: An expected value is not JSON.
    """
    if not isinstance(grader, JsonFields) or grader.average != "micro":
        return None
    counts = np.zeros((len(answers), 3))
    for row, (answer, question) in enumerate(zip(answers, questions, strict=True)):
        if applies(grader, question):
            tally = compare(grader, _stated(grader, answer), _expected(grader, question))
            counts[row] = tally.hits, tally.extra, tally.missing
    return counts
