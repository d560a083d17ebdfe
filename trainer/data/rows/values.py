"""Parse values written as text, and write values as text."""

from __future__ import annotations

import ast
import re
from datetime import date, time
from decimal import Decimal

from trainer.data.pii.hide import hidden
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.nesting import check_shape
from trainer.exact_json import as_text, doubled_key, is_number, loads, text_of_json, with_doubled

Notes = set[str]
"""Ids of what was done to the values of a row, see `usage.NOTES`."""

MAX_PYTHON_CHARS = 2**20
"""Longest Python literal that is read: its parser takes a hundred times the memory of the text."""
NUMPY_LIST = re.compile(r"\}\s*\n\s*\{")
"""Between the items of a numpy array as pandas writes it to CSV: without commas. Line ends inside texts are escaped."""


def parse_json(text: str, notes: Notes) -> object:
    """Return the list or object of `text`, in JSON or as Python writes it; None where it is neither.

    Raises:
        RowError: it is nested too deeply, or an object names a key twice.
    """
    try:
        value: object = loads(text)
        key = doubled_key(with_doubled(text, value))
    except (ValueError, RecursionError):
        value, key = _python_literal(text), None
        if value is not None:
            notes.add("python_text")
    if key is not None:
        raise twice(key)
    check_shape(value)
    return value


def twice(key: str) -> RowError:
    """Return the error of a row in which an object names a key twice."""
    return RowError("invalid_json", f"the key {mark_text(repr(key))} stands twice in one object: which value is meant?")


def twice_message(key: str) -> str:
    """Say it in an error that ends the reading of a file, personal data masked."""
    error = twice(key)
    return f"{error.reason}: {error.render(hidden)}"


def _python_literal(text: str) -> object:
    """Read what `str()` made of a list or dict: only literals, nothing is evaluated."""
    stripped = text.strip()
    if stripped[:1] not in ("[", "{") or len(stripped) > MAX_PYTHON_CHARS:
        return None
    try:
        return _plain(ast.literal_eval(NUMPY_LIST.sub("}, {", stripped)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _plain(value: object) -> object:
    """Return a literal in the types of JSON.

    Raises:
        ValueError: a type that JSON does not have.
    """
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(type(value).__name__)


def is_scalar(value: object) -> bool:
    """Whether a value is one number, truth value, date or decimal: what has one text."""
    return isinstance(value, (bool, int, float, Decimal, date, time))


def written(value: object, where: str, notes: Notes) -> str:
    """Return a value that is no text as the text that is trained: JSON, dates and decimals as they stand.

    Raises:
        RowError: NaN or Infinity, which JSON does not have, or bytes that are no text.
    """
    refuse_no_numbers(value, where)
    if isinstance(value, bytes):
        raise RowError("unsupported_content", f"{where}: bytes that are no UTF-8 text")
    notes.add("json_text")
    return text_of_json(value) if isinstance(value, (dict, list, bool, int, float)) else as_text(value)


def refuse_no_numbers(value: object, where: str) -> None:
    """Refuse NaN and Infinity inside of what is trained.

    Raises:
        RowError: naming the place.
    """
    if isinstance(value, float) and not is_number(value):
        raise RowError("unsupported_content", f"{where}: {value} is no JSON value: write a number, null or text")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_no_numbers(item, where)


def kind_of(value: object) -> str:
    """Name the JSON type of `value` in words."""
    names = {bool: "a boolean", int: "a number", str: "text", list: "a list", dict: "an object"}
    if isinstance(value, float):
        return "a number"
    return "null" if value is None else names.get(type(value), type(value).__name__)
