"""List the texts of a row with their paths, and rewrite some of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast

from trainer import exact_json

STRUCTURE = frozenset(
    ("role", "source", "line", "weight", "type", "id", "tool_call_id", "required", "$ref", "input_ids", "labels")
)
"""Keys of the row's form, not of its content, outside of FREE."""

FREE = frozenset(("arguments", "metadata", "chat_template_kwargs"))
"""Keys with any content below them."""

SILENT = frozenset(("content", "text", "value", "arguments", "function", "messages", "prompt", "response"))
"""Keys without a meaning for the value. All others count as words before it."""

LARGE = 1_000_000
"""Smallest whole number with the seven digits of a telephone number."""

PLAIN_KEY = re.compile(r"[^\W\d][\w.-]{0,40}")


Row = TypeVar("Row", bound=Mapping[str, object])


class Leaf(NamedTuple):
    """One text, or one large whole number, of a row.

    Args:
        path: its place, such as `messages[1].content`; a key that may be personal data stands as `<key 2>`.
        lead: the key before it, as words.
        text: the text.
        is_number: the value is a number.
        is_key: it is a key of an object, and cannot be changed.
    """

    path: str
    lead: str
    text: str
    is_number: bool = False
    is_key: bool = False


def leaves(row: object) -> list[Leaf]:
    """Return the texts of a row in the order of its keys.

    A string under `arguments` that is JSON is read as the object it holds.

    Example:
        >>> [(leaf.path, leaf.lead, leaf.text) for leaf in leaves({"metadata": {"homePhone": "555"}, "line": 7})]
        [('metadata.homePhone', 'home Phone: ', '555')]
    """
    texts: list[Leaf] = []

    def keep(leaf: Leaf) -> str:
        texts.append(leaf)
        return leaf.text

    _Walk(keep, texts.append).rewrite(row)
    return texts


def rewritten(row: Row, change: Callable[[Leaf], object]) -> Row:
    """Return the row with each text replaced by `change`. Parts without a change are the same objects.

    Keys, small numbers and the form of JSON stay.
    """
    # The walk keeps the keys, and the kind of each value but a large number's.
    return cast(Row, _Walk(change, lambda _: None).rewrite(row))


@dataclass(frozen=True)
class _Walk:
    change: Callable[[Leaf], object]
    visit_key: Callable[[Leaf], None]

    def rewrite(self, value: object, path: str = "", lead: str = "", *, is_free: bool = False) -> object:
        if isinstance(value, str):
            return self.change(Leaf(path, lead, value))
        if isinstance(value, dict):
            items = {
                key: self._item(value, key, position, path, lead, is_free)
                for position, key in enumerate(value, start=1)
            }
            return value if all(items[key] is value[key] for key in value) else items
        if isinstance(value, list):
            rewritten_list = [
                self.rewrite(item, f"{path}[{index}]", lead, is_free=is_free) for index, item in enumerate(value)
            ]
            return value if all(new is old for new, old in zip(rewritten_list, value, strict=True)) else rewritten_list
        if is_large(value):
            new = self.change(Leaf(path, lead, str(value), is_number=True))
            return value if new == str(value) else new
        return value

    def _item(self, parent: dict[str, object], key: str, position: int, path: str, lead: str, is_free: bool) -> object:
        value = parent[key]
        if not is_free and is_structure(key, parent):
            return value
        if len(key) >= 16 or not key.isidentifier():
            self.visit_key(Leaf(f"{path}.<key {position}>", "", key, is_key=True))
        old = parsed(value) if key == "arguments" else value
        new = self.rewrite(old, joined(path, key, position), lead_of(key, lead), is_free=is_free or key in FREE)
        if new is old:
            return value
        return exact_json.dumps(new).decode() if isinstance(value, str) and not isinstance(old, str) else new


def is_large(value: object) -> bool:
    """Tell whether a whole number may be a telephone or card number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= LARGE


def is_structure(key: str, parent: dict[str, object]) -> bool:
    """Tell whether the value of `key` belongs to the form of the row, such as the name of a function."""
    if key == "name":
        return "arguments" in parent or "parameters" in parent or "role" in parent
    return key in STRUCTURE


def parsed(value: object) -> object:
    """Return the content of a JSON string, any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return exact_json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def joined(path: str, key: str, position: int) -> str:
    """Return the path of a key, which stands as its position if it may be personal data itself."""
    name = key if _is_plain(key) else f"<key {position}>"
    return f"{path}.{name}" if path else name


@lru_cache(maxsize=1024)  # the rows of a file have the same keys
def _is_plain(key: str) -> bool:
    return PLAIN_KEY.fullmatch(key) is not None and sum(char.isdigit() for char in key) < 4


@lru_cache(maxsize=1024)
def lead_of(key: str, lead: str) -> str:
    """Return the words before a value: its key with spaces. Those above a very long key count on.

    Example:
        >>> lead_of("customerEmail", ""), lead_of("content", "")
        ('customer Email: ', '')
    """
    if key in SILENT:
        return ""
    return re.sub(r"[_\W]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key)) + ": " if len(key) <= 40 else lead
