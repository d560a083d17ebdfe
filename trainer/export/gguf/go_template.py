"""Render the part of Go's text/template that a Modelfile needs: if, range, variables, eq, len, slice, not.

Anything else is refused, so that what is rendered here is what Ollama renders.
Source: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(-(?=\s))?\s*(.*?)\s*((?<=\s)-)?\}\}", re.DOTALL)
_WORD = re.compile(r'\s*("(?:\\.|[^"\\])*"|:=|[(),]|\d+|\$?[A-Za-z_]\w*(?:\.\w+)*|\$(?:\.\w+)*|\.\w+(?:\.\w+)*|\.)')


class TemplateSyntaxError(ValueError):
    """The template is wrong, or uses more of the language than is known here."""


@dataclass
class _Action:
    """One node: text, a value, an assignment, a condition or a loop."""

    kind: str
    text: str = ""
    words: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    body: list[_Action] = field(default_factory=list)
    otherwise: list[_Action] = field(default_factory=list)


@dataclass
class _Scope:
    dot: Any
    variables: dict[str, Any]


def render(template: str, values: dict[str, Any]) -> str:
    """Render a template.

    Args:
        template: Go template text.
        values: What the dot stands for: nested dictionaries and lists.

    Raises:
        TemplateSyntaxError: The template uses what is not known here.

    Example:
        >>> values = {"Messages": [{"Content": "Hi"}, {"Content": "Hello"}]}
        >>> render("{{ range $i, $m := .Messages }}{{ $i }}: {{ .Content }} {{ end }}", values)
        '0: Hi 1: Hello '
    """
    pieces = list(_pieces(template))
    nodes, end = _parse(pieces, 0)
    if end != len(pieces):
        raise TemplateSyntaxError(f"{pieces[end][1]!r} without its beginning")
    return "".join(_run(nodes, _Scope(values, {"$": values})))


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """Yield text and actions in turn; `{{-` and `-}}` take the white space beside them away.

    Example:
        >>> list(_pieces("a {{- .X }} b"))
        [('text', 'a'), ('action', '.X'), ('text', ' b')]
    """
    position, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        yield "text", _trimmed(text, left=trim, right=bool(match.group(1)))
        yield "action", match.group(2)
        position, trim = match.end(), bool(match.group(3))
    yield "text", _trimmed(template[position:], left=trim, right=False)


def _trimmed(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip(" \t\r\n") if left else text
    return text.rstrip(" \t\r\n") if right else text


def _parse(pieces: Sequence[tuple[str, str]], index: int) -> tuple[list[_Action], int]:
    """Return the nodes up to an `else` or `end`, and where that stands."""
    nodes: list[_Action] = []
    while index < len(pieces):
        kind, text = pieces[index]
        word = text.split(None, 1)[0] if kind == "action" and text else ""
        if word in ("else", "end"):
            return nodes, index
        if kind == "text":
            nodes.append(_Action("text", text))
        elif word in ("if", "range"):
            node, index = _block(pieces, index, word, text[len(word) :])
            nodes.append(node)
        else:
            nodes.append(_simple(_words(text)))
        index += 1
    return nodes, index


def _block(pieces: Sequence[tuple[str, str]], index: int, kind: str, condition: str) -> tuple[_Action, int]:
    """Return an `if` or `range` with its branches, and where its `end` stands."""
    words = _words(condition)
    names: list[str] = []
    if kind == "range" and ":=" in words:
        names = [word for word in words[: words.index(":=")] if word != ","]
        words = words[words.index(":=") + 1 :]
    body, index = _parse(pieces, index + 1)
    otherwise: list[_Action] = []
    keyword = _ending(pieces, index)
    if keyword.startswith("else if"):
        node, index = _block(pieces, index, "if", keyword.removeprefix("else if"))
        otherwise = [node]
    elif keyword == "else":
        otherwise, index = _parse(pieces, index + 1)
        if _ending(pieces, index) != "end":
            raise TemplateSyntaxError("two else in one if")
    return _Action(kind, words=words, names=names, body=body, otherwise=otherwise), index


def _ending(pieces: Sequence[tuple[str, str]], index: int) -> str:
    if index >= len(pieces):
        raise TemplateSyntaxError("an if or range without its end")
    return " ".join(pieces[index][1].split()) if pieces[index][1].startswith("e") else ""


def _simple(words: list[str]) -> _Action:
    if len(words) > 2 and words[1] == ":=":
        return _Action("set", words=words[2:], names=[words[0]])
    return _Action("value", words=words)


def _words(text: str) -> list[str]:
    words, position = [], 0
    while text[position:].strip():
        match = _WORD.match(text, position)
        if not match:
            raise TemplateSyntaxError(f"not understood: {text[position:].strip()!r}")
        words.append(match.group(1))
        position = match.end()
    if not words:
        raise TemplateSyntaxError("an empty action")
    return words


def _run(nodes: Sequence[_Action], scope: _Scope) -> Iterator[str]:
    for node in nodes:
        if node.kind == "text":
            yield node.text
        elif node.kind == "value":
            yield _written(_evaluate(node.words, scope))
        elif node.kind == "set":
            scope.variables[node.names[0]] = _evaluate(node.words, scope)
        elif node.kind == "if":
            branch = node.body if _evaluate(node.words, scope) else node.otherwise
            yield from _run(branch, _Scope(scope.dot, dict(scope.variables)))
        else:
            yield from _loop(node, scope)


def _loop(node: _Action, scope: _Scope) -> Iterator[str]:
    for index, item in enumerate(_evaluate(node.words, scope) or []):
        values = (index, item) if len(node.names) == 2 else (item,)
        yield from _run(node.body, _Scope(item, scope.variables | dict(zip(node.names, values, strict=False))))


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _evaluate(words: Sequence[str], scope: _Scope) -> Any:
    """Return the value of a command: one operand, or a function and its operands."""
    operands, index = [], 1 if words[0] in _FUNCTIONS else 0
    while index < len(words):
        value, index = _operand(words, index, scope)
        operands.append(value)
    if words[0] in _FUNCTIONS:
        return _FUNCTIONS[words[0]](*operands)
    if len(operands) != 1:
        raise TemplateSyntaxError(f"not understood: {' '.join(words)!r}")
    return operands[0]


def _operand(words: Sequence[str], index: int, scope: _Scope) -> tuple[Any, int]:
    word = words[index]
    if word == "(":
        end, depth = index, 0
        for end in range(index, len(words)):
            depth += {"(": 1, ")": -1}.get(words[end], 0)
            if depth == 0:
                return _evaluate(words[index + 1 : end], scope), end + 1
        raise TemplateSyntaxError("a parenthesis is not closed")
    if word.startswith('"'):
        return json.loads(word, strict=False), index + 1
    if word.isdigit():
        return int(word), index + 1
    if word[0] not in "$.":
        raise TemplateSyntaxError(f"unknown function {word!r}")
    name, *fields = [part for part in word.split(".") if part] if word.startswith("$") else ["", *word.split(".")[1:]]
    if name and name not in scope.variables:
        raise TemplateSyntaxError(f"unknown variable {name}")
    value = scope.variables[name] if name else scope.dot
    for part in filter(None, fields):
        if not isinstance(value, dict) or part not in value:  # Go would write <no value>
            raise TemplateSyntaxError(f"there is no {word}")
        value = value[part]
    return value, index + 1


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda first, *operands: first in operands,
    "len": len,
    "not": lambda value: not value,
    "slice": lambda value, *ends: value[slice(*ends) if len(ends) > 1 else slice(ends[0], None)],
}
