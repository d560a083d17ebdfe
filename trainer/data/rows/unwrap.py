"""Find the rows inside one JSON value: in a list, under a name, or column by column."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

from trainer.data.pii.hide import hidden
from trainer.errors import DataError

WRAPPERS = ("rows", "examples", "instances", "records", "items")
"""Names of the one list of rows in a file that says other things too."""
SPEAKERS, TEXTS = ("role", "from"), ("content", "value", "parts", "tool_calls", "function_call")


def is_rows(value: object) -> bool:
    """Whether a value holds several rows, and is no row itself."""
    return isinstance(value, list) or (isinstance(value, dict) and _lists(value) != {})


def rows_of(value: object, path: Path, split: str | None) -> list[object]:
    """Return the rows in a value.

    Args:
        value: all of a JSON file.
        path: the file, for messages.
        split: name of the list to take where there are several.

    Raises:
        DataError: there are several lists and none was chosen, or there is none of that name.
    """
    lists = _lists(value) if isinstance(value, dict) else {}
    if split is not None and split not in lists:
        names = f"one of: {hidden(', '.join(lists))}" if lists else "for several lists of rows in one file; remove it"
        raise DataError(f"{path}: no split {split!r}", hint=f"data.sources[].split is {names}")
    if split is None and len(lists) > 1:
        raise DataError(
            f"{path}: several lists of rows: {hidden(', '.join(lists))}", hint="choose one with data.sources[].split"
        )
    if lists:
        return lists[split] if split is not None else next(iter(lists.values()))
    return value if isinstance(value, list) else [value]


def _lists(value: dict[str, object]) -> dict[str, list[object]]:
    """Return the lists of rows in an object, by name; none where it is one row."""
    if "input_ids" in value:
        return {}
    if (table := _from_columns(value)) is not None:
        return {"": table}
    if isinstance(data := value.get("data"), list):
        return {"data": _unnumbered(data)}
    for name in WRAPPERS:
        if _is_list_of_rows(rows := value.get(name)):
            return {name: _unnumbered(rows)}
    lists = {name: rows for name, rows in value.items() if _is_list_of_rows(rows)}
    return lists if len(lists) == len(value) else {}


def _is_list_of_rows(value: object) -> TypeGuard[list[object]]:
    return (
        isinstance(value, list)
        and value != []
        and all(isinstance(item, dict) for item in value[:10])
        and not is_turns(value)
    )


def is_turns(value: object) -> bool:
    """Whether a value is a list of turns, each with a speaker and what is said."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) and _has(turn, SPEAKERS) and _has(turn, TEXTS) for turn in value)


def _has(turn: dict[str, object], names: tuple[str, ...]) -> bool:
    return any(name in turn for name in names)


def _unnumbered(rows: list[object]) -> list[object]:
    """Take rows out of the numbering of the hub's data set server: `{"row_idx": 0, "row": {...}}`."""
    inner = [
        row["row"] for row in rows if isinstance(row, dict) and "row_idx" in row and isinstance(row.get("row"), dict)
    ]
    return inner if len(inner) == len(rows) else rows


def _from_columns(value: dict[str, object]) -> list[object] | None:
    """Return the rows of a table that pandas wrote column by column, None where it is no such table.

    Example:
        pandas' `split`, `columns` and `list` orientations of one table:

        >>> _from_columns({"columns": ["q", "a"], "index": [0, 1], "data": [["x", 1], ["y", 2]]})
        [{'q': 'x', 'a': 1}, {'q': 'y', 'a': 2}]
        >>> _from_columns({"q": {"0": "x", "1": "y"}, "a": {"0": 1, "1": 2}})
        [{'q': 'x', 'a': 1}, {'q': 'y', 'a': 2}]
        >>> _from_columns({"q": ["x", "y"], "a": [1, 2]})
        [{'q': 'x', 'a': 1}, {'q': 'y', 'a': 2}]
    """
    match value:
        case {"columns": list(names), "index": _, "data": list(rows)} if len(value) == 3 and _is_grid(names, rows):
            return [dict(zip(names, row, strict=True)) for row in rows]
    numbered = {name: column for name, column in value.items() if isinstance(column, dict)}
    if len(value) == len(numbered) > 1 and _are_numbered(list(numbered.values())):
        return [{name: column[key] for name, column in numbered.items()} for key in next(iter(numbered.values()))]
    columns = [column for column in value.values() if isinstance(column, list)]
    if len(value) == len(columns) > 1 and _are_cells(columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _is_grid(names: list[object], rows: list[object]) -> bool:
    return all(isinstance(row, list) and len(row) == len(names) for row in rows)


def _are_numbered(columns: list[dict[str, object]]) -> bool:
    keys = columns[0].keys()
    return "0" in keys and all(column.keys() == keys for column in columns)


def _are_cells(columns: list[list[object]]) -> bool:
    """Whether lists are columns of as many cells of text and numbers."""
    length = len(columns[0])
    is_flat = all(not isinstance(cell, (list, dict)) for column in columns for cell in column)
    return length > 1 and is_flat and all(len(column) == length for column in columns)
