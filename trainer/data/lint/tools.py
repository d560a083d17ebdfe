"""Tool calls against the tools that the row itself offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Message = dict[str, Any]

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
"""Types of JSON Schema. Source: https://json-schema.org/draft/2020-12/json-schema-validation section 6.1.1."""


def tool_flags(turns: Iterable[Message], tools: list[dict[str, Any]]) -> list[str]:
    """Return the rules that calls break.

    F012: its schema does not allow the call. F022: the row does not list the tool. F010: an answer to a call that was
    not made.
    """
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools if "function" in tool}
    flags: list[str] = []
    called: set[str] = set()
    for turn in turns:
        for call in turn.get("tool_calls") or []:
            called.add(str(call.get("id")))
            if call["function"]["name"] not in offered:
                flags.append("F022")
            elif not is_allowed(call["function"], offered):
                flags.append("F012")
        answered = turn.get("tool_call_id")
        if answered is not None and called != {"None"} and str(answered) not in called:
            flags.append("F010")
    return sorted(set(flags))


def is_allowed(function: Mapping[str, Any], offered: Mapping[str, Any]) -> bool:
    """Check name, required arguments, unknown arguments, types and enums; what a schema does not say is allowed."""
    if function["name"] not in offered:
        return False
    schema = offered[function["name"]]
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return True
    arguments, required = function["arguments"], schema.get("required")
    if isinstance(required, list) and not all(name in arguments for name in required):
        return False
    is_open = schema.get("additionalProperties", False) is not False
    return all(_fits(value, properties[name]) if name in properties else is_open for name, value in arguments.items())


def _fits(value: object, schema: object) -> bool:
    if not isinstance(schema, dict):
        return True
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return False
    names = schema.get("type")
    known = [TYPES[name] for name in (names if isinstance(names, list) else [names]) if name in TYPES]
    return not known or any(_is_of(value, kind) for kind in known)


def _is_of(value: object, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is int and isinstance(value, float):
        return value.is_integer()  # 3.0 is an integer in JSON Schema
    return isinstance(value, kind)
