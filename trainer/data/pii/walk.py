"""Every text of a row with its place, and the row again with some of them replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from trainer import exact_json

STRUCTURE = frozenset(
    ("role", "source", "line", "weight", "type", "id", "tool_call_id", "required", "$ref", "input_ids", "labels")
)
"""Keys whose values are part of the row's form, not of its content, outside of FREE."""

FREE = frozenset(("arguments", "metadata", "chat_template_kwargs"))
"""Keys below which any key may hold any content."""

NAMED_BY_POSITION = frozenset(("content", "text", "value", "arguments", "function", "messages", "prompt", "response"))
"""Keys that say nothing about what a value means; all others are read as words before the value."""

LARGE = 1_000_000
"""Whole numbers from here on have the seven digits of a telephone number."""

PLAIN_KEY = re.compile(r"[^\W\d][\w.-]{0,40}")


class Leaf(NamedTuple):
    """One text, or one large whole number, of a row.

    Args:
        path: its place, such as `messages[1].content`; keys that may hold data themselves are not spelled out.
        lead: the key before it, as words.
        text: the text.
        is_number: it was a number.
        is_key: it is a key of an object, which cannot be changed.
    """

    path: str
    lead: str
    text: str
    is_number: bool = False
    is_key: bool = False


def leaves(value: Any) -> list[Leaf]:
    """Return the texts of a row in the order of its keys.

    A string under `arguments` that is JSON is read as the object it holds.
    """
    found: list[Leaf] = []
    _add_leaves(value, found, "", "", free=False)
    return found


def _add_leaves(value: Any, found: list[Leaf], path: str, lead: str, *, free: bool) -> None:
    if isinstance(value, str):
        found.append(Leaf(path, lead, value))
    elif isinstance(value, dict):
        for number, (key, held) in enumerate(value.items()):
            if not free and is_structure(key, value):
                continue
            if len(key) >= 16 or not key.isidentifier():
                found.append(Leaf(f"{path}.<key {number + 1}>", "", key, is_key=True))
            below = parsed(held) if key == "arguments" else held
            _add_leaves(below, found, joined(path, key, number), lead_of(key, lead), free=free or key in FREE)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            _add_leaves(held, found, f"{path}[{index}]", lead, free=free)
    elif is_large(value):
        found.append(Leaf(path, lead, str(value), is_number=True))


def rewritten(value: Any, change: Callable[[Leaf], Any], path: str = "", lead: str = "", *, free: bool = False) -> Any:
    """Return `value` with each text replaced by `change`; parts that did not change are the same objects.

    Keys, small numbers and the form of JSON stay.
    """
    if isinstance(value, str):
        return change(Leaf(path, lead, value))
    if isinstance(value, dict):
        items = {
            key: held
            if not free and is_structure(key, value)
            else _held(key, held, change, joined(path, key, number), lead_of(key, lead), free or key in FREE)
            for number, (key, held) in enumerate(value.items())
        }
        return value if all(items[key] is value[key] for key in value) else items
    if isinstance(value, list):
        listed = [rewritten(held, change, f"{path}[{index}]", lead, free=free) for index, held in enumerate(value)]
        return value if all(new is old for new, old in zip(listed, value, strict=True)) else listed
    if is_large(value):
        new = change(Leaf(path, lead, str(value), is_number=True))
        return value if new == str(value) else new
    return value


def _held(key: str, held: Any, change: Callable[[Leaf], Any], path: str, lead: str, free: bool) -> Any:
    old = parsed(held) if key == "arguments" else held
    new = rewritten(old, change, path, lead, free=free)
    if new is old:
        return held
    return exact_json.dumps(new).decode() if isinstance(held, str) and not isinstance(old, str) else new


def is_large(value: Any) -> bool:
    """Tell whether a whole number may be a telephone or card number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= LARGE


def is_structure(key: str, value: dict[str, Any]) -> bool:
    """Tell whether what `key` holds belongs to the form of the row, the names of functions included."""
    if key == "name":
        return "arguments" in value or "parameters" in value or "role" in value
    return key in STRUCTURE


def parsed(value: Any) -> Any:
    """Return the object that a JSON string holds, or the value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return exact_json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def joined(path: str, key: str, number: int) -> str:
    """Return the path of a key; a key that may itself be a found value is only counted."""
    name = key if _is_plain(key) else f"<key {number + 1}>"
    return f"{path}.{name}" if path else name


@lru_cache(maxsize=1024)  # the rows of a file have the same keys
def _is_plain(key: str) -> bool:
    return PLAIN_KEY.fullmatch(key) is not None and sum(char.isdigit() for char in key) < 4


@lru_cache(maxsize=1024)
def lead_of(key: str, lead: str) -> str:
    """Return the words before a value: its key with spaces, or what stood before where the key says nothing."""
    if key in NAMED_BY_POSITION:
        return ""
    return re.sub(r"[_\W]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key)) + ": " if len(key) <= 40 else lead
