"""Load a recipe: apply `extends` and `--set`, resolve paths, and report every problem at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from trainer.errors import Problem, RecipeError
from trainer.recipe.data import HUB_PREFIX
from trainer.recipe.explain import explain
from trainer.recipe.schema import Recipe, solve
from trainer.recipe.suite import Suite
from trainer.recipe.yaml import Document, Key, SourceLocation, dotted, parse_scalar, read

RESOLVED_NAME = "recipe.resolved.json"
MAX_SHOWN = 200
"""Characters of a `--set` in a message."""
SET = "--set"

# Keys that hold paths: resolved against the file that states them, and the only ones where ${VAR} expands.
PATH_KEYS = {
    "data.sources.*.path",
    "data.system_prompt.path",
    "data.split.validation_path",
    "data.split.heldout_path",
    "data.contamination.files.*",
    "data.dedupe.semantic.model",
    "data.pii.name_model.model_dir",
    "eval.arms.*.prompt.path",
    "eval.arms.*.shots.path",
    "eval.arms.*.documents.path",
    "eval.metrics.*.schema",
    "eval.metrics.*.database",
    "eval.suites.*",
    "eval.retention.prompts",
    "model.name_or_path",
    "model.chat_template",
    "model.chat_template_prefix",
    "adapter.init_from",
    "launch.accelerate_config",
}
SUITE_PATH_KEYS = {
    "sources.*.path",
    "sources.*.include_path",
    "graders.*.schema",
    "graders.*.database",
    "sources.*.graders.*.schema",
    "sources.*.graders.*.database",
    "items.*.graders.*.schema",
    "items.*.graders.*.database",
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
    document = _read_run(path) if path.is_dir() else _read_extended(path, chain=())
    if not isinstance(document.values, dict):
        problem = Problem(str(path), None, "recipe", "expected keys and values, got nothing of the kind")
        raise RecipeError(document.problems or [problem])
    _apply_sets(document, sets or [])
    _resolve_paths(document, PATH_KEYS)
    return solve(_validate(document, path))


def load_suite(path: str | Path) -> Suite:
    """Load a suite file; the files that it names are resolved against it.

    Raises:
        RecipeError: With every problem of the file.
    """
    path = Path(path)
    document = read(path)
    _resolve_paths(document, SUITE_PATH_KEYS)
    try:
        suite = Suite.model_validate(document.values)
    except ValidationError as error:
        document.problems += explain(error, document, Suite)
    if document.problems:
        raise RecipeError(document.problems, hint="correct the lines above")
    return suite


def _read_run(run_dir: Path) -> Document:
    resolved = run_dir / RESOLVED_NAME
    if not resolved.is_file():
        raise RecipeError(
            [Problem(str(run_dir), None, "recipe", f"a folder without {RESOLVED_NAME} is no run folder")],
            hint="give a recipe file, or a run folder such as runs/NAME",
        )
    try:
        return Document(orjson.loads(resolved.read_bytes()), {(): SourceLocation(str(resolved), None)})
    except orjson.JSONDecodeError as error:
        raise RecipeError([Problem(str(resolved), error.lineno, "recipe", f"damaged: {error.msg}")]) from error


# extends


def _read_extended(path: Path, *, chain: tuple[Path, ...]) -> Document:
    document = read(path)
    if not isinstance(document.values, dict) or "extends" not in document.values:
        return document
    name = document.values.pop("extends")
    parent_path = path.parent / _expand(str(name))
    chain = (*chain, path.resolve())
    if not isinstance(name, str) or not parent_path.is_file():
        return _refuse_parent(document, f"no such file: {name}")
    if parent_path.resolve() in chain:
        return _refuse_parent(document, f"{name} extends this file itself")
    try:
        parent = _read_extended(parent_path, chain=chain)
    except RecipeError as error:
        document.problems += error.problems
        return _refuse_parent(document, f"{name} cannot be read")
    if not isinstance(parent.values, dict | None):
        return _refuse_parent(document, f"{name} does not hold keys and values")
    return _merge(parent, document)


def _refuse_parent(document: Document, message: str) -> Document:
    location = document.locations[("extends",)]
    document.problems.append(Problem(location.file, location.line, "extends", message))
    return document


def _merge(parent: Document, child: Document) -> Document:
    """Merge deeply, lists replaced; a value keeps the place where it was written."""
    locations = dict(parent.locations)

    def merge(below: object, above: object, key: Key) -> object:
        if isinstance(below, dict) and isinstance(above, dict):
            return below | {name: merge(below.get(name), value, (*key, name)) for name, value in above.items()}
        _forget(locations, key)
        return above

    values = merge(parent.values, child.values, ())
    return Document(values, locations | child.locations, parent.problems + child.problems)


def _forget(locations: dict[Key, SourceLocation], key: Key) -> None:
    """Remove the locations of a value that is replaced, and of all inside it."""
    for old in [inner for inner in locations if inner[: len(key)] == key]:
        del locations[old]


# --set


def _apply_sets(document: Document, sets: list[str]) -> None:
    for text in sets:
        name, equals, value = text.partition("=")
        name = name.strip()
        keys = [int(part) if part.isascii() and part.isdigit() else part for part in name.split(".")]
        location = SourceLocation(f"{SET} {text[:MAX_SHOWN]}", None)
        if not equals or "" in keys:
            document.problems.append(Problem(location.file, None, name or "key", "expected key.path=value"))
            continue
        try:
            parsed = parse_scalar(value)
        except RecipeError as error:
            document.problems += [Problem(location.file, None, name, problem.message) for problem in error.problems]
            continue
        if not _set(document, keys, parsed, location):
            document.problems.append(Problem(location.file, None, name, "there is no such place in the recipe"))


def _set(document: Document, keys: list[str | int], value: object, location: SourceLocation) -> bool:
    """Put a value in its place, creating the sections around it; tell whether there is such a place."""
    node: Any = document.values
    path: list[str | int] = []
    for depth, part in enumerate(keys):
        key = str(part) if isinstance(node, dict) else part
        if isinstance(node, list) and isinstance(key, int) and key <= len(node):
            node += [None] * (key == len(node))
        elif not isinstance(node, dict):
            return False
        path.append(key)
        if depth == len(keys) - 1:
            node[key] = value
        elif (node.get(key) if isinstance(node, dict) else node[key]) is None:
            node[key] = [] if isinstance(keys[depth + 1], int) else {}
            document.locations[tuple(path)] = location
        node = node[key]
    _forget(document.locations, tuple(path))
    document.locations[tuple(path)] = location
    return True


# Paths


def _resolve_paths(document: Document, path_keys: set[str]) -> None:
    def walk(node: object, key: Key) -> object:
        if isinstance(node, dict):
            return {name: walk(value, (*key, name)) for name, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*key, index)) for index, value in enumerate(node)]
        pattern = ".".join("*" if isinstance(part, int) else part for part in key)
        return _resolve_path(document, key, node) if pattern in path_keys and isinstance(node, str) else node

    document.values = walk(document.values, ())


def _resolve_path(document: Document, key: Key, text: str) -> str:
    location = document.location(key)
    is_set = location.file.startswith(SET)
    if location.line is None and not is_set:
        return text  # a resolved recipe
    missing = [name for name in VARIABLE.findall(text) if name not in os.environ]
    for name in missing:
        document.problems.append(Problem(location.file, location.line, dotted(key), f"${{{name}}} is not set"))
    expanded = _expand(text)
    if expanded.startswith(HUB_PREFIX) or expanded == "auto":
        return expanded
    joined = (Path.cwd() if is_set else Path(location.file).parent) / expanded
    if key == ("model", "name_or_path") and not _is_local_model(expanded, joined):
        return expanded
    return os.path.normpath(joined.absolute())


def _expand(text: str) -> str:
    """Expand `~` and each `${VAR}` that is set."""
    return os.path.expanduser(VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text))  # noqa: PTH111


def _is_local_model(text: str, joined: Path) -> bool:
    """Tell a path from a hub id: `Qwen/Qwen3-4B` is a hub id unless such a folder exists."""
    if text.startswith("package:"):
        return False
    return text.startswith((".", "/")) or text.endswith(".gguf") or joined.exists()


# Problems


def _validate(document: Document, path: Path) -> Recipe:
    problems = list(document.problems)
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        reported = {problem.key for problem in problems}
        for problem in explain(error, document):
            # A value that could not be read, or a parent that could not, has been named: its echoes say nothing.
            unread = problem.key in reported and problem.message.endswith("(got None)")
            orphaned = "extends" in reported and problem.message == "required"
            problems += [] if unread or orphaned else [problem]
    if problems:
        problems.sort(key=lambda problem: (problem.file.startswith(SET), problem.file, problem.line or 0))
        raise RecipeError(problems, hint=f"correct the lines above, then: trainer check {path}")
    return recipe
