"""Turn pydantic's errors into problems of a file: the key, its line, and what is expected there."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import Problem
from trainer.recipe.schema import Recipe
from trainer.recipe.spellings import suggest
from trainer.recipe.yaml import Document, Key, dotted

# A rule across sections names its key first: `pack.packing: preference pairs are not packed`.
MAX_SUGGESTED = 20
STATED_KEY = re.compile(r"(?P<key>[a-z_]+(?:\.[a-z_0-9]+)+): (?P<message>.+)", re.DOTALL)
KEY_OF_DICT = "[key]"
"""In pydantic's place of a key that is none of those which a dict takes."""
LocatedError = tuple["ErrorLocation", ErrorDetails]
WRONG_KIND = ("model_type", "model_attributes_type", "dict_type")


@dataclass(frozen=True)
class ErrorLocation:
    """A location of pydantic's, without the names of union members that it mixes in."""

    key: Key
    model: type[BaseModel] | None
    """The section around the last part of the key."""
    unions: tuple[Key, ...]
    """The values on the way for which a union such as `int | Literal["auto"]` offers several types."""
    names: tuple[str, ...] = ()
    """What the last part of the key may be, where that is what is wrong: `types: {emial: redact}`."""


def explain(error: ValidationError, document: Document, root: type[BaseModel] = Recipe) -> list[Problem]:
    """Return one problem for each wrong value; what the members of one union say about it is joined by "or".

    Args:
        error: As pydantic raised it.
        document: What was validated.
        root: The section that the whole document is.
    """
    details: dict[Key, list[LocatedError]] = {}
    for detail in error.errors(include_url=False):
        where = _locate(detail["loc"], root)
        details.setdefault(where.key, []).append((where, detail))
    # `target_modules: [1]`: the fault is the 1 in the list, not that a list is no 'all-linear'
    inner = {union for key, errors in details.items() for where, _ in errors for union in where.unions if union != key}
    wrong = [errors for key, errors in details.items() if key not in inner]
    # a suggestion compares a key with hundreds of names
    return [_problem(document, errors, is_near=number < MAX_SUGGESTED) for number, errors in enumerate(wrong)]


def _problem(document: Document, errors: list[LocatedError], *, is_near: bool) -> Problem:
    where, detail = errors[0]
    if detail["type"] == "extra_forbidden" and not is_near:
        location = document.location(where.key)
        return Problem(location.file, location.line, dotted(where.key), "unknown key")
    key, message = where.key, _message(where, detail)
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        key = (*key, "kind")
    elif detail["type"] == "value_error":
        stated = STATED_KEY.fullmatch(message) if not key else None
        if stated:
            key, message = tuple(stated["key"].split(".")), stated["message"]
    elif detail["type"] not in ("missing", "extra_forbidden") and not where.names:
        expected = " or ".join(dict.fromkeys(_message(where, error) for where, error in errors))
        message = _misspelt(errors) or f"{expected} (got {detail['input']!r:.80})"
    location = document.location(key)
    return Problem(location.file, location.line, dotted(key), message)


def _misspelt(errors: list[LocatedError]) -> str:
    """Return what a word was meant to be, where it is nearly one of those that stand for choice."""
    word = errors[0][1]["input"]
    expected = " ".join(detail["ctx"]["expected"] for _, detail in errors if detail["type"] == "literal_error")
    near = get_close_matches(word, re.findall(r"'([^']+)'", expected), n=1) if isinstance(word, str) else []
    return f"{word!r} is unknown; did you mean `{near[0]}`?" if near else ""


def _message(where: ErrorLocation, detail: ErrorDetails) -> str:
    text = str(detail["msg"])
    if where.names:
        return "unknown key" + suggest(str(where.key[-1]), where.names, _keys_by_name())
    match detail["type"]:
        case "extra_forbidden":
            keys = list(where.model.model_fields) if where.model else []
            return "unknown key" + suggest(str(where.key[-1]), keys, _keys_by_name())
        case "missing":
            return "required"
        case "union_tag_not_found":
            return f"required; one of {_tags(where)}"
        case "union_tag_invalid":
            return f"{detail['ctx']['tag']!r} is none of {_tags(where)}"
        case "value_error":
            return text.removeprefix("Value error, ")
        case kind if kind in WRONG_KIND:
            return "expected keys and values"
    return f"{text[0].lower()}{text[1:]}"


def _locate(location: tuple[str | int, ...], root: type[BaseModel]) -> ErrorLocation:
    key: list[str | int] = []
    model: type[BaseModel] | None = None
    unions: list[Key] = []
    members: list[Any] = [root]
    inner: Any = root
    for part in location:
        if part == KEY_OF_DICT:
            return ErrorLocation(tuple(key), model, tuple(unions), tuple(_literals(get_args(inner)[0])))
        if len(members) > 1:  # the part names a member of the union, not a key
            if str(part).startswith("tagged-union["):
                members = [member for member in members if _is_section(member)]
                unions.append(tuple(key))
                continue
            sections = [member for member in members if _is_section(member)]
            tagged = [section for section in sections if part in (*_kinds(section), section.__name__)]
            if not tagged:
                unions.append(tuple(key))
            members = tagged or [member for member in members if str(part).startswith(_container(member))]
            continue
        key.append(part)
        inner = members[0] if members else Any
        if _is_section(inner):
            model = inner
            field = inner.model_fields.get(str(part))
            members = _members(field.annotation) if field else []
        else:
            members = _members(get_args(inner)[-1]) if _container(inner) else []
    return ErrorLocation(tuple(key), model, tuple(unions))


def _members(annotation: Any) -> list[Any]:
    """Return the types that a value may have, None apart: pydantic puts no name of its own for that one."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [] if annotation is type(None) else [annotation]


def _literals(annotation: Any) -> Iterator[str]:
    """Yield the values that an annotation of texts lists; none where any text will do."""
    for member in _members(annotation):
        if get_origin(member) is Literal:
            yield from get_args(member)


def _container(annotation: Any) -> tuple[str, ...]:
    """Return how pydantic's name of a list or dict begins; nothing for other types."""
    origin = get_origin(annotation)
    return (f"{origin.__name__}[",) if origin in (list, dict) else ()


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kinds(section: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()


def _tags(where: ErrorLocation) -> str:
    """Return the kinds that a choose-one section offers: `'none', 'lora', 'qlora'`."""
    assert where.model is not None
    members = _members(where.model.model_fields[str(where.key[-1])].annotation)
    return ", ".join(repr(kind) for member in members for kind in _kinds(member))


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections inside an annotation such as `list[Source]` or `A | B`."""
    for member in _members(annotation):
        if _is_section(member):
            yield member
        elif get_origin(member) is list:
            yield from _sections(get_args(member)[0])


def _keys_by_name() -> dict[str, str]:
    """Map the last part of every key of the recipe to its dotted name."""
    names: dict[str, str] = {}

    def visit(section: type[BaseModel], prefix: str) -> None:
        for name, info in section.model_fields.items():
            if name not in ("kind", "name", "seed", "path", "text"):
                names.setdefault(name, f"{prefix}{name}")
            for inner in _sections(info.annotation):
                visit(inner, f"{prefix}{name}.")

    visit(Recipe, "")
    return names
