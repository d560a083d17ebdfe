"""Check tool calls against the tools of their row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import orjson

from trainer import exact_json
from trainer.data.records.kinds import Function, Message, Tool

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


def tool_flags(turns: Sequence[Message], tools: list[Tool]) -> list[str]:
    """Return the rules that calls break.

    F012: the schema forbids the call. F022: the row does not list the tool. F010: an answer without its call.
    """
    # A system prompt may describe tools in words, for the model alone.
    system = turns[0]["content"] if turns[0]["role"] == "system" else ""
    offered = {
        str(tool["function"]["name"]): tool["function"].get("parameters") for tool in tools if "function" in tool
    }
    flags: list[str] = []
    called: set[str] = set()
    for turn in turns:
        for call in turn.get("tool_calls") or []:
            called.add(str(call.get("id")))
            if call["function"]["name"] not in offered:
                flags += ["F022"] if call["function"]["name"] not in system else []
            elif not is_allowed(call["function"], offered):
                flags.append("F012")
        call_id = turn.get("tool_call_id")
        if call_id is not None and called != {"None"} and str(call_id) not in called:
            flags.append("F010")
    return sorted(set(flags))


def schemas_of(tools: Iterable[Tool]) -> list[str]:
    """Return name and digest of each tool's parameters, descriptions left out."""
    functions = [tool["function"] for tool in tools if "function" in tool]
    return [f"{function['name']}:{_digest(function.get('parameters'))}" for function in functions]


def _digest(parameters: object) -> str:
    form = exact_json.dumps(_form_of(parameters), option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(form, digest_size=4).hexdigest()


def _form_of(schema: object) -> object:
    if isinstance(schema, dict):
        words = {} if "properties" not in schema and "type" not in schema else {"description", "title", "examples"}
        return {key: _form_of(value) for key, value in schema.items() if key not in words}
    if isinstance(schema, list):
        names = [item for item in schema if isinstance(item, str)]
        return sorted(names) if len(names) == len(schema) else list(map(_form_of, schema))
    return schema


def is_allowed(function: Function, offered: Mapping[str, object]) -> bool:
    """Check required and unknown arguments, types and enums. Parts outside of JSON Schema are not checked."""
    schema = offered[function["name"]]
    if not isinstance(schema, dict) or not isinstance(properties := schema.get("properties"), dict):
        return True
    arguments, required = function["arguments"], schema.get("required")
    if isinstance(required, list) and not all(name in arguments for name in _strings(required)):
        return False
    is_open = schema.get("additionalProperties", False) is not False
    return all(_fits(value, properties[name]) if name in properties else is_open for name, value in arguments.items())


def _fits(value: object, schema: object) -> bool:
    if not isinstance(schema, dict):
        return True
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return False
    names = schema.get("type")
    types = [TYPES[name] for name in _strings(names) if name in TYPES]
    return not types or any(_is_of(value, type_) for type_ in types)


def _strings(names: object) -> list[str]:
    """Return the strings of a list, or a single string as a list."""
    return [name for name in (names if isinstance(names, list) else [names]) if isinstance(name, str)]


def _is_of(value: object, type_: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return type_ is bool
    if type_ is int and isinstance(value, float):
        return value.is_integer()  # 3.0 is an integer in JSON Schema
    return isinstance(value, type_)
