"""Describe JSON answers by keys and types, and find answers that nearly are JSON."""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n```\Z", re.DOTALL | re.IGNORECASE)
LIKE_JSON = re.compile(r"\A(?:\{\s*\"[^\"\n]{1,80}\"\s*:|\[\s*(?:\{\s*\"|\"))")
"""Beginning of intended JSON, unlike `[Romeo enters]` and `{name}`."""
PYTHON_NAMES = re.compile(r"\b(?:True|False|None)\b|'\s*[:,}\]]")
MAX_KEYS, MAX_DEPTH = 60, 4
PATH, TYPE = "\x1e", "\x1f"
"""Separators of the entries of a schema, and of path and type."""


class JsonForm(NamedTuple):
    """How an answer holds JSON."""

    form: str = ""
    """plain, fenced, prefixed (words before it), broken (intended JSON that does not parse) or ""."""
    schema: str | None = None
    """Paths and types of a JSON object, sorted; "" for a list or for no keys."""


NO_JSON = JsonForm()
ENDS = frozenset("}]`")


def json_form(answer: str, prompt: str) -> JsonForm:
    """Return the form of an answer, and the schema of its JSON."""
    if answer[-4:].rstrip()[-1:] not in ENDS:
        return NO_JSON
    text = answer.strip()
    if text.startswith(("{", "[")):
        return _plain(text, prompt)
    if fenced := FENCED.match(text):
        inner = _plain(fenced[1].strip(), prompt)
        return JsonForm("fenced" if inner.form == "plain" else inner.form, inner.schema)
    return _prefixed(text)


def _plain(text: str, prompt: str) -> JsonForm:
    try:
        return JsonForm("plain", schema_of(orjson.loads(text)))
    except orjson.JSONDecodeError:
        is_python = PYTHON_NAMES.search(text) and "json" not in prompt.lower()
        is_meant = LIKE_JSON.match(text) and text.endswith(("}", "]")) and not is_python
        return JsonForm("broken") if is_meant else NO_JSON


def _prefixed(text: str) -> JsonForm:
    """Read an object after one line of words. Code and prose with braces do not parse."""
    start = text.find('{"')
    if not 0 < start <= 120 or not text.endswith("}"):
        return NO_JSON
    try:
        return JsonForm("prefixed", schema_of(orjson.loads(text[start:])))
    except orjson.JSONDecodeError:
        return NO_JSON


def schema_of(value: object) -> str:
    """Return the paths and types of a JSON value as one text.

    Example:
        >>> schema_of({"name": "a", "sizes": [1]}).replace(TYPE, "=").split(PATH)
        ['name=string', 'sizes=list', 'sizes[]=number']
    """
    entries: set[str] = set()
    _add_entries(value, "", MAX_DEPTH, entries)
    return PATH.join(sorted(entries)[:MAX_KEYS])


def _add_entries(value: object, path: str, depth: int, entries: set[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{path}.{key}" if path else key
            entries.add(f"{inner}{TYPE}{_type_of(item)}")
            if depth and isinstance(item, (dict, list)):
                _add_entries(item, inner, depth - 1, entries)
    elif isinstance(value, list) and depth:
        for item in value[:20]:
            if isinstance(item, dict):
                _add_entries(item, f"{path}[]", depth - 1, entries)
            else:
                entries.add(f"{path}[]{TYPE}{_type_of(item)}")


def _type_of(value: object) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), "null")


def keys_of_schema(schema: str) -> str:
    """Return the outermost keys of a schema in alphabetical order, joined by commas."""
    paths = {entry.partition(TYPE)[0] for entry in schema.split(PATH)} - {""}
    return ",".join(sorted({path for path in paths if "." not in path and "[]" not in path}))
