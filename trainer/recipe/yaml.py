"""Read YAML into values that remember their lines.

YAML 1.2 rules (ruamel.yaml): `3e-4` is a number and `no` is a string. Duplicate keys, aliases and tags are refused,
size and depth are bounded, and every problem of a file is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from trainer.errors import Problem, RecipeError

MAX_BYTES = 1 << 20
MAX_PARTS, STRUCTURE = 20_000, ("\n", ": ", ",", "[", "{")
"""Bound the seconds that a parser in Python takes; the longest recipe of this project has 60 lines."""
MAX_DEPTH = 32
WHOLE_NUMBERS = range(-(2**63), 2**63)
"""What the run's JSON files hold."""
TEXT_TAGS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"})
TAGS = TEXT_TAGS | {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "null", "bool", "int", "float")}

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written."""

    file: str
    line: int | None


@dataclass
class Document:
    """Plain values, and the place of each one by its path."""

    values: Any
    locations: dict[Key, SourceLocation] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def location(self, key: Key) -> SourceLocation:
        """Return the place of a key, or of the nearest thing around it that was written."""
        while key and key not in self.locations:
            key = key[:-1]
        return self.locations.get(key, SourceLocation("recipe", None))


def dotted(key: Key) -> str:
    """Return a key as text.

    Example:
        >>> dotted(("data", "sources", 0, "path"))
        'data.sources.0.path'
    """
    return ".".join(str(part) for part in key) or "recipe"


def parse_scalar(text: str) -> object:
    """Return the value of one YAML text, as `--set key=value` takes it.

    Raises:
        RecipeError: The text is not YAML.
    """
    document = parse(text, file="--set")
    if document.problems:
        raise RecipeError(document.problems)
    return document.values


def read(path: Path) -> Document:
    """Read a recipe file.

    Raises:
        RecipeError: The file is missing, too large, not UTF-8 or not YAML.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # would be read without end
        raise RecipeError([Problem(str(path), None, "recipe", "is a device or a pipe, not a file")])
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
        raise RecipeError(
            [Problem(str(path), None, "recipe", reason)], hint="give the path of a recipe, or: trainer --help"
        ) from error
    if len(data) > MAX_BYTES:
        raise RecipeError([Problem(str(path), None, "recipe", f"more than {MAX_BYTES} bytes")])
    try:
        return parse(data.decode("utf-8-sig"), file=str(path))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError([Problem(str(path), line, "recipe", "not UTF-8 text")]) from error


def parse(text: str, *, file: str) -> Document:
    """Parse YAML text into values and locations.

    Raises:
        RecipeError: The text is not YAML at all.
    """
    if sum(map(text.count, STRUCTURE)) > MAX_PARTS:
        raise RecipeError([Problem(file, None, "yaml", f"more than {MAX_PARTS} lines, keys, entries and brackets")])
    loader = YAML(typ="safe", pure=True)
    try:
        root = loader.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        raise RecipeError(
            [Problem(file, mark.line + 1 if mark else None, "yaml", str(error.problem or error))]
        ) from error
    except YAMLError as error:
        raise RecipeError([Problem(file, None, "yaml", str(error).splitlines()[0])]) from error
    except RecursionError as error:
        raise RecipeError([Problem(file, None, "yaml", f"nested deeper than {MAX_DEPTH}")]) from error
    document = Document(None)
    if root is not None:
        document.values = _Builder(loader, file, document).value(root, ())
    return document


class _Builder:
    """Walks YAML nodes, collecting values, locations and problems."""

    def __init__(self, loader: YAML, file: str, document: Document) -> None:
        self.constructor = loader.constructor
        self.file = file
        self.document = document
        self.visited: set[int] = set()

    def value(self, node: Node, key: Key) -> object:
        # of an alias, the node is where its anchor stands: the key is the place to correct
        location = self.document.locations.setdefault(key, SourceLocation(self.file, node.start_mark.line + 1))
        if id(node) in self.visited or node.anchor:
            return self.refuse(location, key, "anchors and aliases are not allowed; use `extends`")
        self.visited.add(id(node))
        if len(key) > MAX_DEPTH:
            return self.refuse(location, key, f"nested deeper than {MAX_DEPTH}")
        if str(node.tag) not in TAGS:
            return self.refuse(location, key, f"tag {node.tag} is not allowed")
        match node:
            case MappingNode():
                return self.mapping(node, key)
            case SequenceNode():
                return [self.value(child, (*key, index)) for index, child in enumerate(node.value)]
            case ScalarNode():
                return self.scalar(node, key, location)
        raise AssertionError(f"unknown YAML node {node!r}")

    def mapping(self, node: MappingNode, key: Key) -> dict[str, object]:
        values: dict[str, object] = {}
        for name_node, child in node.value:
            location = SourceLocation(self.file, name_node.start_mark.line + 1)
            if not isinstance(name_node, ScalarNode):
                self.refuse(location, key, "a key must be plain text")
                continue
            name = name_node.value
            if name in values:
                first = self.document.locations[(*key, name)].line
                self.refuse(location, (*key, name), f"duplicate key, first given on line {first}")
                continue
            self.document.locations[(*key, name)] = location
            values[name] = self.value(child, (*key, name))
        return values

    def scalar(self, node: ScalarNode, key: Key, location: SourceLocation) -> object:
        if str(node.tag) in TEXT_TAGS:
            return node.value
        try:
            value = self.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:
            return self.refuse(location, key, f"cannot read {node.value!r:.80}: {error}")
        if isinstance(value, int) and value not in WHOLE_NUMBERS:
            return self.refuse(location, key, f"{node.value:.40} is beyond 64 bits, from -2^63 to 2^63 - 1")
        return value

    def refuse(self, location: SourceLocation, key: Key, message: str) -> object:
        """Note a problem, and return what stands for the value that cannot be read."""
        self.document.problems.append(Problem(location.file, location.line, dotted(key), message))
        return None
