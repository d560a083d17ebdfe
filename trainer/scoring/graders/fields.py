"""Compare JSON values field by field, and lists of objects object by object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.recipe.metrics import Comparator, JsonFields
from trainer.scoring.graders.json_text import canonical
from trainer.scoring.graders.normalise import bare
from trainer.scoring.graders.numeric import is_close

MAX_PAIRS = 100_000
"""Pairs of objects tried in two lists; longer lists are compared in their order."""
Path = tuple[str, ...]
"""Keys from the top to a field; the index in a list is no part of it."""


class _Absent:
    """Type of `ABSENT`."""


ABSENT: Final = _Absent()
"""Stands for a missing field: null is a value."""


@dataclass(frozen=True)
class FieldTally:
    """Fields of two values, counted."""

    hits: int = 0
    extra: int = 0
    missing: int = 0
    faults: tuple[str, ...] = field(default=(), compare=False)

    def __add__(self, tally: FieldTally) -> FieldTally:
        """Return the sum of both."""
        return FieldTally(
            self.hits + tally.hits,
            self.extra + tally.extra,
            self.missing + tally.missing,
            (*self.faults, *tally.faults),
        )


def compare(grader: JsonFields, value: object, expected: object, path: Path = ()) -> FieldTally:
    """Count the fields of two values.

    A field with another value is one too many and one that is missing. The items of a list count one by one, the
    objects in it field by field, each against the expected object that it has most in common with.

    Args:
        grader: How fields are compared.
        value: Of the answer; `ABSENT` where there is none.
        expected: What is right; `ABSENT` where there is none.
        path: Keys that lead to them.

    Example: one field right, one wrong, and an object without a partner.
        >>> answer = [{"a": 1, "b": 2}, {"a": 5, "b": 6}]
        >>> tally = compare(JsonFields(), answer, [{"a": 1, "b": 3}])
        >>> tally.hits, tally.extra, tally.missing
        (1, 3, 1)
    """
    configured = _comparator(grader, path)
    if configured == "ignore":
        return FieldTally()
    if configured in ("set", "list"):  # a single value stands for a list of one
        value, expected = (side if isinstance(side, list) or side is ABSENT else [side] for side in (value, expected))
    objects = _as_objects(value, expected)
    if objects and configured in (None, "auto") and (value or expected or not path):
        return _compare_objects(grader, *objects, path)
    lists = _as_lists(value, expected)
    if lists:
        comparator = _list_comparator(grader, configured, [*lists[0], *lists[1]])
        if comparator in ("set", "list"):
            return _compare_lists(grader, comparator, *lists, path)
    if _differ_in_shape(value, expected):
        return compare(grader, value, ABSENT, path) + compare(grader, ABSENT, expected, path)
    return _single(grader, value, expected, path)


def _comparator(grader: JsonFields, path: Path) -> Comparator | None:
    """Return how the recipe compares the field of this name; None where it does not name it."""
    return (grader.fields or {}).get(".".join(path)) if path else None


def _as_objects(value: object, expected: object) -> tuple[dict[str, object], dict[str, object]] | None:
    """Return two objects, an empty one for one that is absent; None where a value is no object."""
    first, second = ({} if side is ABSENT and peer is not ABSENT else side for side, peer in _sides(value, expected))
    return (first, second) if isinstance(first, dict) and isinstance(second, dict) else None


def _as_lists(value: object, expected: object) -> tuple[list[object], list[object]] | None:
    """Return two lists, an empty one for one that is absent; None where a value is no list."""
    first, second = ([] if side is ABSENT and peer is not ABSENT else side for side, peer in _sides(value, expected))
    return (first, second) if isinstance(first, list) and isinstance(second, list) else None


def _sides(value: object, expected: object) -> tuple[tuple[object, object], tuple[object, object]]:
    """Return each value with its counterpart."""
    return (value, expected), (expected, value)


def _differ_in_shape(value: object, expected: object) -> bool:
    def shape(side: object) -> type | None:
        return type(side) if isinstance(side, dict | list) else None

    return value is not ABSENT and expected is not ABSENT and shape(value) != shape(expected)


def _list_comparator(grader: JsonFields, configured: Comparator | None, items: list[object]) -> Comparator:
    comparator = configured or grader.default
    has_objects = any(isinstance(item, dict) for item in items)
    if comparator == "auto" or (configured is None and has_objects and comparator != "list"):
        return "set"
    return comparator


def _single(grader: JsonFields, value: object, expected: object, path: Path) -> FieldTally:
    comparator = _comparator(grader, path) or grader.default
    name = ".".join(path) or "the answer"
    if comparator == "ignore":
        return FieldTally()
    if value is ABSENT:
        return FieldTally(missing=1, faults=(f"missing: {name}",))
    if expected is ABSENT:
        return FieldTally(extra=1, faults=(f"extra: {name}",))
    comparator = "auto" if comparator in ("set", "list") else comparator
    if equal_values(value, expected, comparator, grader.rel_tolerance):
        return FieldTally(hits=1)
    return FieldTally(extra=1, missing=1, faults=(f"wrong: {name}",))


def _compare_objects(
    grader: JsonFields, value: dict[str, object], expected: dict[str, object], path: Path
) -> FieldTally:
    total = FieldTally()
    for key in {**expected, **value}:
        total += compare(grader, value.get(key, ABSENT), expected.get(key, ABSENT), (*path, key))
    return total


# Lists


def _compare_lists(
    grader: JsonFields, comparator: Comparator, values: list[object], expected: list[object], path: Path
) -> FieldTally:
    if comparator == "list":
        return _paired(grader, values, expected, path, in_order=True)
    objects = [[item for item in items if isinstance(item, dict)] for items in (values, expected)]
    scalars = [{canonical(item) for item in items if not isinstance(item, dict)} for items in (values, expected)]
    total = _paired(grader, objects[0], objects[1], path, in_order=False)
    if _comparator(grader, path) is None and grader.default == "ignore":
        return total
    shared = len(scalars[0] & scalars[1])
    extra, missing = len(scalars[0]) - shared, len(scalars[1]) - shared
    return total + FieldTally(shared, extra, missing, _list_fault(path, extra, missing))


def _list_fault(path: Path, extra: int, missing: int) -> tuple[str, ...]:
    if not extra and not missing:
        return ()
    kind = "wrong" if extra and missing else "extra" if extra else "missing"
    return (f"{kind}: {'.'.join(path) or 'the answer'}",)


def _paired(
    grader: JsonFields, values: Sequence[object], expected: Sequence[object], path: Path, *, in_order: bool
) -> FieldTally:
    """Compare the items that belong together; items without a partner are extra or missing."""
    if len(values) * len(expected) > MAX_PAIRS:
        pairs = list(zip(range(len(values)), range(len(expected)), strict=False))
    else:
        hits = np.array([[_item(grader, value, right, path).hits for right in expected] for value in values])
        pairs = (_aligned(hits) if in_order else _assigned(hits)) if hits.size else []
    total = sum((_item(grader, values[row], expected[column], path) for row, column in pairs), FieldTally())
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    for row, value in enumerate(values):
        total += FieldTally() if row in rows else _item(grader, value, ABSENT, path)
    for column, value in enumerate(expected):
        total += FieldTally() if column in columns else _item(grader, ABSENT, value, path)
    return total


def _item(grader: JsonFields, value: object, expected: object, path: Path) -> FieldTally:
    """Compare two items of a list; their path is that of the list."""
    objects = _as_objects(value, expected)
    if objects:
        return _compare_objects(grader, *objects, path)
    if isinstance(value, dict) or isinstance(expected, dict):
        return _item(grader, value, ABSENT, path) + _item(grader, ABSENT, expected, path)
    is_hit = value is not ABSENT and expected is not ABSENT and canonical(value) == canonical(expected)
    extra, missing = int(not is_hit and value is not ABSENT), int(not is_hit and expected is not ABSENT)
    return FieldTally(int(is_hit), extra, missing, _list_fault(path, extra, missing))


def _assigned(hits: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) that have most in common, all together.

    Example:
        >>> _assigned(np.array([[0, 1], [3, 0]]))
        [(0, 1), (1, 0)]
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  slow to import, and `check` assigns nothing

    rows, columns = linear_sum_assignment(hits, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def _aligned(hits: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column), both rising, that have most in common, all together.

    Example: the second row belongs to the first column; the first row stays alone.
        >>> _aligned(np.array([[0, 1], [3, 0]]))
        [(1, 0)]
    """
    height, width = hits.shape
    # best[i, j]: most hits of the first i rows and j columns
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


def equal_values(value: object, expected: object, comparator: str, rel_tolerance: float = 1e-9) -> bool:
    """Compare two JSON values: auto (numbers by value), exact, normalised (text) or numeric (also "1,200" as text)."""
    if comparator == "normalised":
        return bare(_text(value)) == bare(_text(expected))
    if comparator == "numeric" or (comparator == "auto" and _is_number(value) and _is_number(expected)):
        first, second = _number(value), _number(expected)
        if first is None or second is None:
            return False
        return first == second or is_close(first, second, absolute=0.0, relative=rel_tolerance)
    if comparator == "exact":
        return type(value) is type(expected) and bool(value == expected)
    return canonical(value) == canonical(expected)


def _text(value: object) -> str:
    return value if isinstance(value, str) else canonical(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float | None:
    try:
        text = value.replace(",", "") if isinstance(value, str) else value
        return float(text) if isinstance(text, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def summarised(faults: Sequence[str], most: int) -> str:
    """Return faults as one text, equal ones once with their number."""
    counts = Counter(faults)
    parts = [fault if count == 1 else f"{fault} ({count} times)" for fault, count in counts.items()]
    return "; ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")
