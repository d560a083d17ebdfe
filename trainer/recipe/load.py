"""Recipe file to `Recipe`: `extends`, `--set`, paths, and every problem at once."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path
from typing import Any, get_args, get_origin

import orjson
from pydantic import BaseModel, ValidationError

from trainer.errors import Problem, RecipeError
from trainer.recipe.schema import Recipe, solve
from trainer.recipe.spellings import suggest
from trainer.recipe.yaml import Document, Key, Place, dotted, parse_scalar, read

RESOLVED_NAME = "recipe.resolved.json"

# Keys that hold paths: resolved against the file that states them, and the only ones where ${VAR} expands.
PATH_KEYS = {
    "data.sources.*.path",
    "data.system_prompt.path",
    "data.split.validation_path",
    "data.split.heldout_path",
    "model.name_or_path",
    "model.chat_template",
    "adapter.init_from",
    "launch.accelerate_config",
}
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load_recipe(path: str | Path, *, sets: list[str] | None = None) -> Recipe:
    """Load a recipe file, or the resolved recipe of a run folder.

    Args:
        path: YAML file, or a run folder.
        sets: `key.path=value` overrides; values are parsed as YAML, list items are named by their index.

    Raises:
        RecipeError: With every problem of the file, its parents and the overrides.
    """
    path = Path(path)
    document = _read_run(path) if path.is_dir() else _read_extended(path, seen=())
    _apply_sets(document, sets or [])
    if not isinstance(document.values, dict):
        raise RecipeError([Problem(str(path), None, "recipe", "expected keys and values, got nothing of the kind")])
    _resolve_paths(document)
    return solve(_validate(document, path))


def _read_run(run_dir: Path) -> Document:
    resolved = run_dir / RESOLVED_NAME
    if not resolved.is_file():
        raise RecipeError(
            [Problem(str(run_dir), None, "recipe", f"a folder without {RESOLVED_NAME} is no run folder")],
            hint="give a recipe file, or a run folder such as runs/NAME",
        )
    try:
        return Document(orjson.loads(resolved.read_bytes()), {(): Place(str(resolved), None)})
    except orjson.JSONDecodeError as error:
        raise RecipeError([Problem(str(resolved), error.lineno, "recipe", f"damaged: {error.msg}")]) from error


def _read_extended(path: Path, *, seen: tuple[Path, ...]) -> Document:
    document = read(path)
    if not isinstance(document.values, dict) or "extends" not in document.values:
        return document
    parent_name = document.values.pop("extends")
    place = document.places[("extends",)]
    parent_path = (path.parent / str(parent_name)).resolve()
    chain = (*seen, path.resolve())
    if not isinstance(parent_name, str) or not parent_path.is_file():
        document.problems.append(Problem(place.file, place.line, "extends", f"no such file: {parent_name}"))
        return document
    if parent_path in chain:
        document.problems.append(Problem(place.file, place.line, "extends", f"{parent_name} extends this file itself"))
        return document
    return _merge(_read_extended(parent_path, seen=chain), document)


def _merge(parent: Document, child: Document) -> Document:
    """Merge deeply, lists replaced; a value keeps the place where it was written."""
    places = dict(parent.places)

    def merge(below: Any, above: Any, key: Key) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return below | {name: merge(below.get(name), value, (*key, name)) for name, value in above.items()}
        for old in [place for place in places if place[: len(key)] == key]:
            del places[old]
        return above

    values = merge(parent.values, child.values, ())
    return Document(values, places | child.places, parent.problems + child.problems)


def _apply_sets(document: Document, sets: list[str]) -> None:
    for text in sets:
        name, equals, value = text.partition("=")
        keys = [int(part) if part.isdigit() else part for part in name.strip().split(".")]
        place = Place(f"--set {text}", None)
        if not equals or "" in keys:
            document.problems.append(Problem(place.file, None, name or "key", "expected key.path=value"))
            continue
        try:
            parsed = parse_scalar(value)
        except RecipeError as error:
            document.problems.append(Problem(place.file, None, name, error.problems[0].message))
            continue
        _set(document, keys, parsed, place)


def _set(document: Document, keys: list[str | int], value: Any, place: Place) -> None:
    target = document.values if isinstance(document.values, dict) else {}
    for depth, key in enumerate(keys[:-1]):
        if isinstance(target, dict) and (key not in target or target[key] is None):
            target[str(key)] = [] if isinstance(keys[depth + 1], int) else {}
        try:
            target = target[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            target = None  # type: ignore[assignment]
            break
    last = keys[-1]
    if isinstance(target, list) and isinstance(last, int) and last <= len(target):
        target[last : last + 1] = [value]
    elif isinstance(target, dict):
        target[str(last)] = value
    else:
        document.problems.append(Problem(place.file, None, dotted(tuple(keys)), "there is no such place in the recipe"))
        return
    key_path = tuple(keys)
    for old in [known for known in document.places if known[: len(key_path)] == key_path]:
        del document.places[old]
    document.places[key_path] = place


def _resolve_paths(document: Document) -> None:
    def walk(node: Any, key: Key) -> Any:
        if isinstance(node, dict):
            return {name: walk(value, (*key, name)) for name, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*key, index)) for index, value in enumerate(node)]
        pattern = ".".join("*" if isinstance(part, int) else part for part in key)
        return _resolve_path(document, key, node) if pattern in PATH_KEYS and isinstance(node, str) else node

    document.values = walk(document.values, ())


def _resolve_path(document: Document, key: Key, text: str) -> str:
    place = _place(document, key)
    missing = [name for name in VARIABLE.findall(text) if name not in os.environ]
    for name in missing:
        document.problems.append(Problem(place.file, place.line, dotted(key), f"${{{name}}} is not set"))
    expanded = os.path.expanduser(VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text))  # noqa: PTH111
    base = Path.cwd() if place.file.startswith("--set") or place.line is None else Path(place.file).parent
    joined = base / expanded
    if key == ("model", "name_or_path") and not _is_local_model(expanded, joined):
        return expanded
    return os.path.normpath(joined.absolute())


def _is_local_model(text: str, joined: Path) -> bool:
    """Tell a path from a hub id: `Qwen/Qwen3-4B` is a hub id unless such a folder exists."""
    if text.startswith("package:"):
        return False
    return text.startswith((".", "/")) or text.endswith(".gguf") or joined.exists()


def _place(document: Document, key: Key) -> Place:
    """Return the place of a key, or of the nearest thing around it that was written."""
    while key and key not in document.places:
        key = key[:-1]
    return document.places.get(key, Place("recipe", None))


def _validate(document: Document, path: Path) -> Recipe:
    problems = list(document.problems)
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        problems += [_problem(document, dict(detail)) for detail in error.errors(include_url=False)]
    if problems:
        raise RecipeError(problems, hint=f"correct the lines above, then: trainer check {path}")
    return recipe


def _problem(document: Document, detail: dict[str, Any]) -> Problem:
    key, model = _real_key(detail["loc"], document.values)
    place = _place(document, key)
    message = str(detail["msg"]).removeprefix("Value error, ")
    match detail["type"]:
        case "extra_forbidden":
            known = list(model.model_fields) if model else []
            message = "unknown key" + suggest(str(key[-1]), known, _known_keys())
        case "missing":
            message = "required"
        case "union_tag_not_found":
            key, message = (*key, "kind"), f"required; one of {detail['ctx'].get('expected_tags', '')}".rstrip()
        case "union_tag_invalid":
            key = (*key, "kind")
            place = _place(document, key)
            message = f"{detail['ctx']['tag']!r} is none of {detail['ctx']['expected_tags']}"
        case "value_error":
            pass
        case _:
            message = f"{message[0].lower()}{message[1:]} (got {detail['input']!r:.80})"
    return Problem(place.file, place.line, dotted(key), message)


def _real_key(location: tuple[str | int, ...], values: Any) -> tuple[Key, type[BaseModel] | None]:
    """Drop the union members that pydantic puts into its locations; return the model around the last key too."""
    key: list[str | int] = []
    model: type[BaseModel] | None = Recipe
    annotation: Any = Recipe
    for index, part in enumerate(location):
        members = _models(annotation)
        tagged = next((m for m in members if part in get_args(_kind(m))), None) if len(members) > 1 else None
        if tagged is not None:
            model = annotation = tagged
            continue
        is_last = index == len(location) - 1
        container = values
        for known in key:
            container = container[known] if isinstance(container, list | dict) else None
        inside = isinstance(container, dict | list)
        if not inside and key and not (is_last and model and part in model.model_fields):
            continue  # a member of a plain union, such as `int` or `literal['auto']`
        if isinstance(container, list) and not isinstance(part, int):
            continue
        key.append(part)
        if isinstance(part, int):
            annotation = get_args(annotation)[0] if get_args(annotation) else Any
        elif len(members) >= 1:
            model = members[0] if annotation is not model else model
            annotation = model.model_fields[part].annotation if model and part in model.model_fields else Any
    return tuple(key), model


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].annotation if "kind" in model.model_fields else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the section classes inside an annotation such as `list[Source]` or `A | B`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) is list:
        return _models(get_args(annotation)[0])
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _known_keys() -> dict[str, str]:
    """Map the last part of every key of the recipe to its dotted name."""
    names: dict[str, str] = {}

    def visit(model: type[BaseModel], prefix: str) -> None:
        for name, info in model.model_fields.items():
            if name != "kind" and name not in ("name", "seed", "path", "text"):
                names.setdefault(name, f"{prefix}{name}")
            for inner in _models(info.annotation):
                visit(inner, f"{prefix}{name}.")

    visit(Recipe, "")
    return names
