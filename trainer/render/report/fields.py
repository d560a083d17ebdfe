"""Compare answers that are JSON or tool calls with what was expected, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

MAX_FIELDS = 40
MAX_VALUE = 300
"""Characters of one field."""
MAX_DEPTH = 20
Path = tuple[str | int, ...]
"""Keys and indices down to a field."""
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
        column = self.arms.index(arm)
        lines = [line for line in self.lines if line.cells[column].standing != "same"]
        parts = [_in_words(line, line.cells[column]) for line in lines[:limit]]
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


def field_table(expected: object, answers: Mapping[str, object]) -> FieldTable | None:
    """Line up the fields of structured answers.

    Args:
        expected: A JSON value.
        answers: The same by arm; None for an answer that could not be read.

    Returns:
        None where there is nothing to compare: a plain value, or no arm that could be read.

    Example:
        >>> table = field_table({"total": 30, "paid": True}, {"tuned": {"total": 31, "paid": True}})
        >>> table.wrong("tuned"), table.num_same
        ('total: 31 instead of 30', 1)
    """
    if not isinstance(expected, dict | list) or not any(value is not None for value in answers.values()):
        return None
    right = dict(_leaves(expected))
    leaves = {arm: dict(_leaves(value)) for arm, value in answers.items() if value is not None}
    paths = dict.fromkeys([*right, *(path for fields in leaves.values() for path in fields)])
    lines = [_line(path, right, list(leaves.values())) for path in paths]
    different = [line for line in lines if any(cell.standing != "same" for cell in line.cells)]
    return FieldTable(
        arms=list(leaves),
        lines=different[:MAX_FIELDS],
        num_same=len(lines) - len(different),
        num_left_out=max(len(different) - MAX_FIELDS, 0),
        unread=[arm for arm, value in answers.items() if value is None],
    )


def structured(text: str) -> object:
    """Return a text as the JSON object or list that it is; None for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield the path and the value of each field; an empty list or object is a value of its own."""
    if isinstance(value, dict) and value and len(path) < MAX_DEPTH:
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list) and value and len(path) < MAX_DEPTH:
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _line(path: Path, right: Mapping[Path, object], leaves: Sequence[Mapping[Path, object]]) -> FieldLine:
    expected = right.get(path, _MISSING)
    cells = [_cell(expected, fields.get(path, _MISSING)) for fields in leaves]
    return FieldLine(_write_path(path), _write_value(expected), cells)


def _cell(expected: object, value: object) -> Cell:
    if value is _MISSING:
        return Cell("missing", "missing") if expected is not _MISSING else Cell("", "same")
    if expected is _MISSING:
        return Cell(_write_value(value), "extra")
    return Cell(_write_value(value), "same" if _equal(expected, value) else "differs")


def _equal(left: object, right: object) -> bool:
    """Compare as JSON: 1 is 1.0, and neither is true."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _write_path(path: Path) -> str:
    """Write a path; a key that holds a dot or a bracket stands in quotes.

    Example:
        >>> _write_path(("items", 2, "code")), _write_path(("a.b",))
        ('items[2].code', '"a.b"')
    """
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            plain = part if part and not set(part) & set('.[]"') else json.dumps(part, ensure_ascii=False)
            parts.append(f".{plain}" if parts else plain)
    return "".join(parts) or "(all)"


def _write_value(value: object) -> str:
    if value is _MISSING:
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text) - MAX_VALUE:,} more characters)"
