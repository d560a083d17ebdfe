"""Read tool calls in the text of an answer, in the forms that open models write."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.scoring.graders.json_text import find, parse

_TAGGED = re.compile(
    r"<(tool_call|function_call|functioncall|tool_calls)>(.*?)(?:</\1>|(?=<\1>)|\Z)", re.DOTALL | re.IGNORECASE
)
_FUNCTION_TAG = re.compile(
    r"<(?:function=|invoke name=\"?)([\w.:-]+)\"?>(.*?)(?:</function>|</invoke>|(?=<function=|<invoke )|\Z)", re.DOTALL
)
_PARAMETER_TAG = re.compile(r"<parameter(?:=| name=\"?)([\w.:-]+)\"?>\n?(.*?)\n?</parameter>", re.DOTALL)
_KEY_AND_VALUE = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_NAME_ALONE = re.compile(r"\s*([\w.:-]+)\s*(?=<arg_key>|\Z)")
_MARKER = re.compile(r"(?:\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool_calls?\|>|Action:)\s*", re.IGNORECASE)
_FENCE = re.compile(r"```[a-zA-Z_]*\s*\n(.*?)```", re.DOTALL)
_PYTHONIC = re.compile(r"\[?\s*[A-Za-z_][\w.]*\(")
_BETWEEN = (
    r"(?::\d+)?[^\w{]*"
    r"(?:(?:json|args|arguments|commentary|constrain|message|tool▁sep|tool_call_argument_begin)[^\w{]+)*"
)
"""What stands between a name and its arguments in the forms of DeepSeek, Kimi, Mistral and gpt-oss."""
MAX_CHARACTERS = 100_000
MAX_SYNTAX = 10_000
"""Longest text that is read as calls in the syntax of Python."""


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: dict[str, object]


@dataclass(frozen=True)
class Calls:
    """The calls of an answer."""

    calls: tuple[Call, ...]
    broken: str = ""
    """Text that is marked as a call and cannot be read as one."""


def calls_of(values: Sequence[object]) -> Calls:
    """Read calls as messages hold them: `function` or plain, arguments as an object or as its JSON text."""
    calls = [call for value in values for call in _calls(value)]
    broken = [value for value in values if not _calls(value)]
    return Calls(tuple(calls), json.dumps(broken[0])[:200] if broken else "")


def read_calls(text: str, names: Sequence[str] = ()) -> Calls:
    """Read the calls in a text: `<tool_call>` tags, markers such as `[TOOL_CALLS]`, JSON, `name(key="value")`.

    Example:
        >>> read_calls('[weather(city="Rome")]').calls
        (Call(name='weather', arguments={'city': 'Rome'}),)

    Args:
        text: An answer.
        names: Of the tools that there are: such a name before a JSON object is a call.
    """
    text = text[:MAX_CHARACTERS]
    by_name = _by_name(text, names)
    if by_name and not _TAGGED.search(text):
        return Calls(tuple(by_name))
    results: list[Call] = []
    broken = ""
    marked = list(_marked(text))
    for part in marked or [text, *_FENCE.findall(text)]:
        calls = _read(part)
        results += calls
        if calls and not marked:
            break
        if not calls and marked and part.strip():
            broken = part.strip()[:200]
    return Calls(tuple(results), broken)


def _by_name(text: str, names: Sequence[str]) -> list[Call]:
    if not names:
        return []
    any_name = "|".join(re.escape(name) for name in names)
    results = []
    for match in re.finditer(rf"(?<![\w\"'.])(?:functions\.)?({any_name})\b{_BETWEEN}(?={{)", text, re.IGNORECASE):
        arguments = find(text[match.end() : match.end() + MAX_SYNTAX])
        if isinstance(arguments, dict):
            results.append(Call(match[1], arguments))
    return results


def _marked(text: str) -> Iterator[str]:
    """Yield the parts that are marked as calls."""
    tagged = [match[2] for match in _TAGGED.finditer(text)]
    functions = [match[0] for match in _FUNCTION_TAG.finditer(text)]
    if tagged or functions:
        yield from tagged or functions
        return
    marker = _MARKER.search(text)
    if marker:
        yield text[marker.end() :].removesuffix("<|eom_id|>").removesuffix("<|eot_id|>")


def _read(part: str) -> list[Call]:
    part = part.strip()
    tagged = [_from_tags(*match) for match in _FUNCTION_TAG.findall(part)]
    if tagged:
        return tagged
    name = _NAME_ALONE.match(part)
    if name and "<arg_key>" in part:
        return [Call(name[1], {key.strip(): _value(text) for key, text in _KEY_AND_VALUE.findall(part)})]
    for text in (part, *part.splitlines(), *part.split(";")):
        try:
            calls = _calls(parse(text))
        except ValueError:
            continue
        if calls:
            return calls if text == part else [call for line in _pieces(part, text) for call in line]
    return _pythonic(part)


def _pieces(part: str, text: str) -> Iterator[list[Call]]:
    """Yield the calls of each line, or of each part between semicolons, whichever `text` came from."""
    pieces = part.splitlines() if text in part.splitlines() else part.split(";")
    for piece in pieces:
        try:
            yield _calls(parse(piece))
        except ValueError:
            continue


def _calls(value: object) -> list[Call]:
    """Return the calls that a JSON value stands for; none if it stands for something else."""
    if isinstance(value, list):
        groups = [_calls(item) for item in value]
        return [call for calls in groups for call in calls] if all(groups) else []
    if not isinstance(value, dict):
        return []
    if "tool_calls" in value and isinstance(value["tool_calls"], list):
        return _calls(value["tool_calls"])
    inner = value.get("function", value)
    inner = {"name": inner, **value} if isinstance(inner, str) else inner
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        return []
    arguments = next((inner[key] for key in ("arguments", "parameters", "args") if key in inner), None)
    arguments = _object(arguments)
    return [] if arguments is None else [Call(inner["name"], arguments)]


def _object(arguments: object) -> dict[str, object] | None:
    if isinstance(arguments, str):
        try:
            arguments = parse(arguments) if arguments.strip() else {}
        except ValueError:
            return None
    return arguments if isinstance(arguments, dict) else None


def _from_tags(name: str, body: str) -> Call:
    """Read `<parameter=x>value</parameter>`; what stands for `<function=name>` may also be an object."""
    plain = _object(body) if body.strip().startswith("{") else None
    if plain is not None:
        return Call(name, plain)
    return Call(name, {key: _value(text) for key, text in _PARAMETER_TAG.findall(body)})


def _value(text: str) -> object:
    try:
        return parse(text)
    except ValueError:
        return text


def _pythonic(part: str) -> list[Call]:
    """Read `[name(key="value"), ...]` without running anything."""
    if len(part) > MAX_SYNTAX or not _PYTHONIC.match(part) or not part.endswith((")", "]")):
        return []
    try:
        node = ast.parse(part, mode="eval").body
        nodes = node.elts if isinstance(node, ast.List) else [node]
        return [_from_syntax(item) for item in nodes]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []


def _from_syntax(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise ValueError("no call by keywords")
    return Call(ast.unparse(node.func), {str(word.arg): ast.literal_eval(word.value) for word in node.keywords})
