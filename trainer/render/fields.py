"""Compares answers that are JSON or tool calls with what was expected, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never

MAX_FIELDS = 40
MAX_VALUE = 300
"""Characters of one field."""
Place = tuple[str | int, ...]
Standing = Literal["same", "differs", "missing", "extra"]
_MISSING = object()


@dataclass(frozen=True)
class Cell:
    """What one arm has in a field."""

    text: str
    standing: Standing


@dataclass(frozen=True)
class FieldLine:
    """One field in which an arm differs: expected, and what each arm has, in the order of `FieldTable.arms`."""

    name: str
    expected: str
    cells: list[Cell]


@dataclass(frozen=True)
class FieldTable:
    """The fields in which some arm differs from what was expected."""

    arms: list[str]
    lines: list[FieldLine]
    num_same: int
    """Fields that every arm has right."""
    num_left_out: int
    unread: list[str]
    """Arms whose answer cannot be read as JSON or as calls: they are shown as text only."""

    def wrong(self, arm: str, limit: int = 3) -> str:
        """Say in what an arm differs: `total: 31 instead of 30`; empty where it does not or cannot be read."""
        if arm not in self.arms:
            return ""
        place = self.arms.index(arm)
        lines = [line for line in self.lines if line.cells[place].standing != "same"]
        parts = [_in_words(line, line.cells[place]) for line in lines[:limit]]
        return "; ".join(parts) + (f"; and {len(lines) - limit} more" if len(lines) > limit else "")


def _in_words(line: FieldLine, cell: Cell) -> str:
    expected, text = (part if len(part) <= 40 else f"{part[:39]}…" for part in (line.expected, cell.text))
    match cell.standing:
        case "missing":
            return f"{line.name}: missing, {expected} expected"
        case "extra":
            return f"{line.name}: {text}, not expected"
        case "differs" | "same":
            return f"{line.name}: {text} instead of {expected}"
        case _:
            assert_never(cell.standing)


def field_table(expected: Any, answers: Mapping[str, Any]) -> FieldTable | None:
    """Line up the fields of structured answers.

    Args:
        expected: A JSON value, or a list of calls {"name", "arguments"}.
        answers: The same by arm; None for an answer that could not be read.

    Returns:
        None where there is nothing to compare: a plain value, or no arm that could be read.
    """
    if not isinstance(expected, dict | list) or not any(value is not None for value in answers.values()):
        return None
    wanted = dict(_leaves(expected))
    read = {arm: dict(_leaves(value)) for arm, value in answers.items() if value is not None}
    places = list(dict.fromkeys([*wanted, *(place for leaves in read.values() for place in leaves)]))
    lines = [_line(place, wanted, list(read.values())) for place in places]
    different = [line for line in lines if any(cell.standing != "same" for cell in line.cells)]
    return FieldTable(
        arms=list(read),
        lines=different[:MAX_FIELDS],
        num_same=len(lines) - len(different),
        num_left_out=max(len(different) - MAX_FIELDS, 0),
        unread=[arm for arm, value in answers.items() if value is None],
    )


def structured(text: str) -> Any:
    """Return a text as the JSON object or list that it is; None for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield the place and the value of each field; an empty list or object is a value of its own."""
    if isinstance(value, dict) and value and len(place) < 20:
        for key, item in value.items():
            yield from _leaves(item, (*place, str(key)))
    elif isinstance(value, list) and value and len(place) < 20:
        for index, item in enumerate(value):
            yield from _leaves(item, (*place, index))
    else:
        yield place, value


def _line(place: Place, wanted: Mapping[Place, Any], read: Sequence[Mapping[Place, Any]]) -> FieldLine:
    right = wanted.get(place, _MISSING)
    return FieldLine(_name(place), _text(right), [_cell(right, leaves.get(place, _MISSING)) for leaves in read])


def _cell(right: Any, value: Any) -> Cell:
    if value is _MISSING:
        return Cell("missing", "missing") if right is not _MISSING else Cell("", "same")
    if right is _MISSING:
        return Cell(_text(value), "extra")
    return Cell(_text(value), "same" if _equal(right, value) else "differs")


def _equal(left: Any, right: Any) -> bool:
    """Compare as JSON: 1 is 1.0, and neither is true."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _name(place: Place) -> str:
    """Write a place: `items[2].code`; a key that holds a dot or a bracket stands in quotes, as it is no path."""
    parts = []
    for part in place:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            plain = part if part and not set(part) & set('.[]"') else json.dumps(part, ensure_ascii=False)
            parts.append(f".{plain}" if parts else plain)
    return "".join(parts) or "(all)"


def _text(value: Any) -> str:
    if value is _MISSING:
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text) - MAX_VALUE:,} more characters)"
