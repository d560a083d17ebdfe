"""Compares JSON values field by field, and lists of objects object by object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from trainer.recipe.metrics import Comparator, JsonFields
from trainer.scoring.graders.json_text import canonical
from trainer.scoring.graders.normalise import bare
from trainer.scoring.graders.numeric import is_close

MAX_PAIRS = 100_000
"""Pairs of objects tried in two lists; longer lists are compared in their order."""
Path = tuple[str, ...]
"""Keys from the top to a field; the place in a list is no part of it."""


class _Absent:
    """Stands for a field that there is not."""


ABSENT: Final = _Absent()


@dataclass(frozen=True)
class FieldTally:
    """What was counted in two values."""

    hits: int = 0
    extra: int = 0
    missing: int = 0
    faults: tuple[str, ...] = field(default=(), compare=False)

    def __add__(self, other: FieldTally) -> FieldTally:
        """Return both together."""
        return FieldTally(
            self.hits + other.hits,
            self.extra + other.extra,
            self.missing + other.missing,
            (*self.faults, *other.faults),
        )


def compare(grader: JsonFields, value: Any, expected: Any, path: Path = ()) -> FieldTally:
    """Count the fields of two values.

    A field with another value is one too many and one that is missing. The items of a list count one by one, the
    objects in it field by field, each against the expected object that it has most in common with.

    Args:
        grader: How fields are compared.
        value: Of the answer; `ABSENT` where there is none.
        expected: What is right; `ABSENT` where there is none.
        path: Where they stand.
    """
    named = _named(grader, path)
    if named == "ignore":
        return FieldTally()
    if named in ("set", "list"):  # a single value stands for a list of one
        value, expected = (one if isinstance(one, list) or one is ABSENT else [one] for one in (value, expected))
    if _all(dict, value, expected) and named in (None, "auto") and (value or expected or not path):
        return _objects(grader, _or_empty(value, {}), _or_empty(expected, {}), path)
    if _all(list, value, expected):
        how = _of_list(grader, named, [*_or_empty(value, []), *_or_empty(expected, [])])
        if how in ("set", "list"):
            return _lists(grader, how, _or_empty(value, []), _or_empty(expected, []), path)
    if _differ_in_shape(value, expected):
        return compare(grader, value, ABSENT, path) + compare(grader, ABSENT, expected, path)
    return _single(grader, value, expected, path)


def _named(grader: JsonFields, path: Path) -> Comparator | None:
    """Return how the recipe compares the field of this name; None where it does not name it."""
    return (grader.fields or {}).get(".".join(path)) if path else None


def _all(kind: type, value: Any, expected: Any) -> bool:
    """Tell whether both values are of a kind, or the one that there is."""
    there = [one for one in (value, expected) if one is not ABSENT]
    return bool(there) and all(isinstance(one, kind) for one in there)


def _or_empty(value: Any, empty: Any) -> Any:
    return empty if value is ABSENT else value


def _differ_in_shape(value: Any, expected: Any) -> bool:
    def shape(one: Any) -> type | None:
        return type(one) if isinstance(one, dict | list) else None

    return value is not ABSENT and expected is not ABSENT and shape(value) != shape(expected)


def _of_list(grader: JsonFields, named: Comparator | None, items: list[Any]) -> Comparator:
    how = named or grader.default
    has_objects = any(isinstance(item, dict) for item in items)
    if how == "auto" or (named is None and has_objects and how != "list"):
        return "set"
    return how


def _single(grader: JsonFields, value: Any, expected: Any, path: Path) -> FieldTally:
    how = _named(grader, path) or grader.default
    name = ".".join(path) or "the answer"
    if how == "ignore":
        return FieldTally()
    if value is ABSENT:
        return FieldTally(missing=1, faults=(f"missing: {name}",))
    if expected is ABSENT:
        return FieldTally(extra=1, faults=(f"extra: {name}",))
    if equal_values(value, expected, "auto" if how in ("set", "list") else how, grader.rel_tolerance):
        return FieldTally(hits=1)
    return FieldTally(extra=1, missing=1, faults=(f"wrong: {name}",))


def _objects(grader: JsonFields, value: dict[str, Any], expected: dict[str, Any], path: Path) -> FieldTally:
    total = FieldTally()
    for key in {**expected, **value}:
        total += compare(grader, value.get(key, ABSENT), expected.get(key, ABSENT), (*path, key))
    return total


# Lists


def _lists(grader: JsonFields, how: Comparator, values: list[Any], expected: list[Any], path: Path) -> FieldTally:
    if how == "list":
        return _paired(grader, values, expected, path, in_order=True)
    objects = [[item for item in items if isinstance(item, dict)] for items in (values, expected)]
    others = [{canonical(item) for item in items if not isinstance(item, dict)} for items in (values, expected)]
    total = _paired(grader, objects[0], objects[1], path, in_order=False)
    if _named(grader, path) is None and grader.default == "ignore":
        return total
    shared = len(others[0] & others[1])
    extra, missing = len(others[0]) - shared, len(others[1]) - shared
    return total + FieldTally(shared, extra, missing, _list_fault(path, extra, missing))


def _list_fault(path: Path, extra: int, missing: int) -> tuple[str, ...]:
    if not extra and not missing:
        return ()
    kind = "wrong" if extra and missing else "extra" if extra else "missing"
    return (f"{kind}: {'.'.join(path) or 'the answer'}",)


def _paired(grader: JsonFields, values: list[Any], expected: list[Any], path: Path, *, in_order: bool) -> FieldTally:
    """Compare the items that belong together; the others are extra or missing."""
    if len(values) * len(expected) > MAX_PAIRS:
        pairs = list(zip(range(len(values)), range(len(expected)), strict=False))
    else:
        hits = np.array([[_item(grader, one, other, path).hits for other in expected] for one in values])
        pairs = (_aligned(hits) if in_order else _assigned(hits)) if hits.size else []
    total = sum((_item(grader, values[row], expected[column], path) for row, column in pairs), FieldTally())
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    for row, value in enumerate(values):
        total += FieldTally() if row in rows else _item(grader, value, ABSENT, path)
    for column, value in enumerate(expected):
        total += FieldTally() if column in columns else _item(grader, ABSENT, value, path)
    return total


def _item(grader: JsonFields, value: Any, expected: Any, path: Path) -> FieldTally:
    """Compare two items of a list, which stand where the list does."""
    if _all(dict, value, expected):
        return _objects(grader, _or_empty(value, {}), _or_empty(expected, {}), path)
    if isinstance(value, dict) or isinstance(expected, dict):
        return _item(grader, value, ABSENT, path) + _item(grader, ABSENT, expected, path)
    is_hit = value is not ABSENT and expected is not ABSENT and canonical(value) == canonical(expected)
    extra, missing = int(not is_hit and value is not ABSENT), int(not is_hit and expected is not ABSENT)
    return FieldTally(int(is_hit), extra, missing, _list_fault(path, extra, missing))


def _assigned(hits: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) that have most in common, all together."""
    rows, columns = linear_sum_assignment(hits, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def _aligned(hits: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column), both rising, that have most in common, all together."""
    height, width = hits.shape
    best = np.zeros((height + 1, width + 1), np.int64)
    for row in range(height):
        for column in range(width):
            together = best[row, column] + hits[row, column]
            best[row + 1, column + 1] = max(best[row, column + 1], best[row + 1, column], together)
    pairs = []
    row, column = height, width
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return pairs[::-1]


# Values


def equal_values(value: Any, expected: Any, how: str, rel_tolerance: float = 1e-9) -> bool:
    """Compare two JSON values: auto (numbers by value), exact, normalised (text) or numeric (also "1,200" as text)."""
    if how == "normalised":
        return bare(_text(value)) == bare(_text(expected))
    if how == "numeric" or (how == "auto" and _is_number(value) and _is_number(expected)):
        first, second = _number(value), _number(expected)
        if first is None or second is None:
            return False
        return first == second or is_close(first, second, absolute=0.0, relative=rel_tolerance)
    if how == "exact":
        return type(value) is type(expected) and bool(value == expected)
    return canonical(value) == canonical(expected)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    try:
        return float(value.replace(",", "") if isinstance(value, str) else value)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None


def summarised(faults: Sequence[str], most: int) -> str:
    """Return faults as one text, equal ones once with their number."""
    counts = Counter(faults)
    parts = [fault if count == 1 else f"{fault} ({count} times)" for fault, count in counts.items()]
    return "; ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")
