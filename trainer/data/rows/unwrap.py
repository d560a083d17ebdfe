"""Find the rows inside one JSON value: in a list, under a name, or column by column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.data.pii.hide import hidden
from trainer.errors import DataError

WRAPPERS = ("rows", "examples", "instances", "records", "items")
"""Names of the one list of rows in a file that says other things too."""
SPEAKERS, TEXTS = ("role", "from"), ("content", "value", "parts", "tool_calls", "function_call")


def is_rows(value: object) -> bool:
    """Whether a value holds several rows, and is no row itself."""
    return isinstance(value, list) or (isinstance(value, dict) and _lists(value) != {})


def rows_of(value: object, path: Path, split: str | None) -> list[Any]:
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


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of rows in an object, by name; none where it is one row."""
    if "input_ids" in value:
        return {}
    if (table := _from_columns(value)) is not None:
        return {"": table}
    if isinstance(value.get("data"), list):
        return {"data": _unnumbered(value["data"])}
    if wrapped := [name for name in WRAPPERS if _is_list_of_rows(value.get(name))]:
        return {name: _unnumbered(value[name]) for name in wrapped[:1]}
    if any(is_turns(item) for item in value.values()) or not all(_is_list_of_rows(item) for item in value.values()):
        return {}
    return dict(value)


def _is_list_of_rows(value: object) -> bool:
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


def _has(turn: dict[str, Any], names: tuple[str, ...]) -> bool:
    return any(name in turn for name in names)


def _unnumbered(rows: list[Any]) -> list[Any]:
    """Take rows out of the numbering of the hub's data set server: `{"row_idx": 0, "row": {...}}`."""
    if all(isinstance(row, dict) and isinstance(row.get("row"), dict) and "row_idx" in row for row in rows):
        return [row["row"] for row in rows]
    return rows


def _from_columns(value: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a table that pandas wrote column by column, None where it is no such table."""
    columns = list(value.values())
    if value.keys() == {"columns", "index", "data"} and _is_grid(value["columns"], value["data"]):
        return [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]
    if len(columns) < 2:
        return None
    if all(isinstance(column, dict) for column in columns) and _are_numbered(columns):
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    if all(isinstance(column, list) for column in columns) and _are_cells(columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _is_grid(names: object, rows: object) -> bool:
    if not isinstance(names, list) or not isinstance(rows, list):
        return False
    return all(isinstance(row, list) and len(row) == len(names) for row in rows)


def _are_numbered(columns: list[dict[str, Any]]) -> bool:
    keys = columns[0].keys()
    return "0" in keys and all(column.keys() == keys for column in columns)


def _are_cells(columns: list[list[Any]]) -> bool:
    """Whether lists are columns of as many cells of text and numbers."""
    length = len(columns[0])
    is_flat = all(not isinstance(cell, (list, dict)) for column in columns for cell in column)
    return length > 1 and is_flat and all(len(column) == length for column in columns)
