"""Marks for JSON answers: validity, schema, and F1 over fields."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.recipe.metrics import Comparator, Grader, JsonFields, JsonSchema, ValidJson
from trainer.scoring.graders.expected import applies, expected
from trainer.scoring.graders.failures import failure_of, shown
from trainer.scoring.graders.json_text import canonical, find, is_json, parse
from trainer.scoring.graders.normalise import bare
from trainer.scoring.graders.numeric import is_close
from trainer.scoring.question import Answer, Failure, Grade, Question

ROOT = ""
"""Name of the answer as a whole, where it is a list or a single value."""
MAX_NAMED = 6


def _unreadable(answer: Answer) -> Failure:
    """Sort an answer that is not JSON."""
    found = failure_of(answer, ["{}"])
    return "format" if found in ("knowledge", "style") else found


def grade_valid_json(grader: ValidJson, answer: Answer, question: Question) -> Grade:
    """Mark whether the whole answer is a JSON object or list."""
    if is_json(answer.text):
        return Grade(1.0)
    around = " (there is JSON with text around it)" if find(answer.text) is not None else ""
    return Grade(0.0, f"not JSON: {shown(answer.text)}{around}", _unreadable(answer))


def grade_json_schema(grader: JsonSchema, answer: Answer, question: Question) -> Grade:
    """Mark whether the answer is JSON that the schema allows."""
    try:
        value = parse(answer.text)
    except ValueError:
        return Grade(0.0, f"not JSON: {shown(answer.text)}", _unreadable(answer))
    fault = schema_fault(grader.definition, value)
    return Grade(0.0, fault, "format") if fault else Grade(1.0)


def schema_fault(schema: Any, value: Any) -> str:
    """Return what a schema does not allow about a value, with its place; empty if it allows it.

    Raises:
        DataError: The schema refers to one that is not part of it: nothing is fetched.
    """
    validator = _validator(orjson.dumps(schema))
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: (len(error.absolute_path), error.message))
    except importlib.import_module("referencing").exceptions.Unresolvable as error:
        raise DataError(
            f"the schema refers to {error.ref}, which is not part of it", hint="put it under $defs: nothing is fetched"
        ) from error
    if not errors:
        return ""
    place = "/".join(map(str, errors[0].absolute_path)) or "its top"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"at {place}: {errors[0].message[:200]}{more}"


@cache
def _validator(schema: bytes) -> Any:
    library = importlib.import_module("jsonschema")  # by name: it is needed only where a schema is
    value = orjson.loads(schema)
    kind = library.validators.validator_for(value, default=library.Draft202012Validator)
    # an empty registry, so that a reference to another address is an error, not a request
    return kind(value, registry=importlib.import_module("referencing").Registry())


# Fields


def flat(value: Any, path: str = ROOT) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of each field; lists and empty objects are values."""
    if isinstance(value, dict) and (value or path == ROOT):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def field_counts(grader: JsonFields, found: Any, wanted: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Count fields: (true positives, false positives, false negatives), and say what is wrong.

    A field with another value is a false positive and a false negative; a list counts item by item.
    """
    have, want = dict(flat(found)), dict(flat(wanted))
    counts, faults = np.zeros(3, np.int64), []
    for name in [*want, *(name for name in have if name not in want)]:
        how = _comparator(grader, name, want.get(name, have.get(name)))
        if how == "ignore":
            continue
        parts = np.array(_compared(grader, how, _items(have, name, how), _items(want, name, how)))
        counts += parts
        if parts[1] or parts[2]:
            kind = "extra" if name not in want else "missing" if name not in have else "wrong"
            faults.append(f"{kind}: {name or 'the answer'}")
    return counts, faults


def _comparator(grader: JsonFields, name: str, value: Any) -> Comparator:
    fields = grader.fields or {}
    parents = [name[:place] for place, letter in enumerate(name) if letter == "."]
    if name not in fields and any(fields.get(parent) == "ignore" for parent in parents):
        return "ignore"
    how = fields.get(name, grader.default)
    if how in ("set", "list") and not isinstance(value, list) and name not in fields:
        how = "auto"  # a default for lists
    if how == "auto" and isinstance(value, list):
        return "set"
    return how


def _items(values: dict[str, Any], name: str, how: Comparator) -> list[Any]:
    """Return what counts one by one: the items of a list under set and list, else the value as a whole."""
    if name not in values:
        return []
    value = values[name]
    return value if how in ("set", "list") and isinstance(value, list) else [value]


def _compared(grader: JsonFields, how: Comparator, have: list[Any], want: list[Any]) -> tuple[int, int, int]:
    if how == "list":
        shared = _in_order([canonical(item) for item in have], [canonical(item) for item in want])
    elif how == "set":
        shared = sum((Counter(set(map(canonical, have))) & Counter(set(map(canonical, want)))).values())
        return shared, len(set(map(canonical, have))) - shared, len(set(map(canonical, want))) - shared
    else:
        shared = int(bool(have and want) and equal_values(have[0], want[0], how, grader.rel_tolerance))
    return shared, len(have) - shared, len(want) - shared


def _in_order(have: list[str], want: list[str]) -> int:
    """Return the length of the longest common subsequence."""
    best = [0] * (len(want) + 1)
    for item in have:
        diagonal = 0
        for place, other in enumerate(want, 1):
            diagonal, best[place] = best[place], diagonal + 1 if item == other else max(best[place], best[place - 1])
    return best[-1]


def equal_values(found: Any, wanted: Any, how: str, rel_tolerance: float = 1e-9) -> bool:
    """Compare two JSON values: auto (numbers by value), exact, normalised (text) or numeric (also "1,200" as text)."""
    if how == "normalised":
        return bare(_text(found)) == bare(_text(wanted))
    if how == "numeric" or (how == "auto" and _is_number(found) and _is_number(wanted)):
        first, second = _number(found), _number(wanted)
        if first is None or second is None:
            return False
        return is_close(first, second, absolute=0.0, relative=rel_tolerance)
    if how == "exact":
        return type(found) is type(wanted) and bool(found == wanted)
    return canonical(found) == canonical(wanted)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    if _is_number(value):
        return float(value)
    try:
        return float(value.replace(",", "")) if isinstance(value, str) else None
    except ValueError:
        return None


def _wanted(grader: JsonFields, question: Question) -> Any:
    value = expected(grader, question)
    if grader.key is not None and not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise DataError(
            f"{question.id}: metric {grader.title} expects JSON, and the expected value is {shown(value)}",
            hint="correct the row, name another field in `key`, or limit the metric to some rows by `when`",
        ) from error


def _found(grader: JsonFields, answer: Answer) -> Any:
    """Return the answer's value; None where it is no object and no list."""
    try:
        value = parse(answer.text)
    except ValueError:
        value = find(answer.text) if grader.find else None
    return value


def grade_json_fields(grader: JsonFields, answer: Answer, question: Question) -> Grade:
    """Mark one row's fields.

    Raises:
        DataError: The expected value is not JSON.
    """
    wanted = _wanted(grader, question)
    found = _found(grader, answer)
    counts, faults = _row_counts(grader, found, wanted)
    score = _score(grader.measure, *counts.tolist())
    if found is None:
        content = find(answer.text)
        is_right = content is not None and not _row_counts(grader, content, wanted)[0][1:].any()
        return Grade(score, f"not JSON: {shown(answer.text)}", "style" if is_right else _unreadable(answer))
    if not counts[1:].any():
        return Grade(score)
    more = f" and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
    return Grade(score, "; ".join(faults[:MAX_NAMED]) + more, "knowledge")


def _row_counts(grader: JsonFields, found: Any, wanted: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Count; an answer of another type than expected, or none, has no right field."""
    if found is None and wanted is not None:
        found = [] if isinstance(wanted, list) else {}
    if isinstance(found, dict) != isinstance(wanted, dict):
        empty: Any = {} if isinstance(wanted, dict) else []
        missing, faults = field_counts(grader, empty, wanted)
        extra = sum(len(_items({ROOT: value}, ROOT, "set")) for _, value in flat(found))
        return missing + np.array([0, extra, 0]), [*faults, f"the answer is {type(found).__name__}"]
    return field_counts(grader, found, wanted)


def _score(measure: str, hits: int, extra: int, missing: int) -> float:
    total = {"f1": 2 * hits + extra + missing, "precision": hits + extra, "recall": hits + missing}[measure]
    if not total:
        return float(extra == missing == 0)
    return (2 * hits if measure == "f1" else hits) / total


def micro(grader: Grader, answers: Sequence[Answer], questions: Sequence[Question]) -> NDArray[np.float64] | None:
    """Count the fields of each row, for F1 over all rows together.

    Returns:
        (rows, 3) true positives, false positives and false negatives, zeros where `when` leaves a row out; None for
        a metric that is the mean of its rows' marks.

    Raises:
        DataError: An expected value is not JSON.
    """
    if not isinstance(grader, JsonFields) or grader.average != "micro":
        return None
    counts = np.zeros((len(answers), 3))
    for row, (answer, question) in enumerate(zip(answers, questions, strict=True)):
        if applies(grader, question):
            counts[row] = _row_counts(grader, _found(grader, answer), _wanted(grader, question))[0]
    return counts
