"""Measure how the source reads: names, types, comments, examples, folders, imports, lines.

    python scripts/house.py [--names] [ROOT]

Prints a table for the package `ROOT/trainer`; ROOT is any checkout, so that two states can be compared. `--names` lists
the vague bindings of each file instead.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

VAGUE_WORDS = (
    "found place places said kept one ones own asked wanted told given other others done made taken seen "
    "gone shown thing things stuff what whom rest meant held named known whole"
)
"""Words that name no kind of value. A binding is vague if it is one of them as a whole."""
VAGUE = frozenset(VAGUE_WORDS.split())
Folder = str
Node = TypeVar("Node", bound=ast.AST)


def bindings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of all that the source binds: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def is_vague(name: str) -> bool:
    """Tell whether a name is a vague word as a whole: `found`, `_found`, but not `found_rows`."""
    return name.strip("_").lower() in VAGUE


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def has_example(text: str) -> bool:
    """Tell whether a docstring shows an example: a line after `Example:` or a doctest prompt."""
    return "Example:" in text or "Examples:" in text or ">>> " in text


def comments(source: str) -> int:
    """Count comment lines without directives for tools."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(
        token.type == tokenize.COMMENT and "noqa" not in token.string and "type:" not in token.string
        for token in tokens
    )


def num_any(tree: ast.AST) -> int:
    """Count uses of `Any`, imports not counted."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def imports(tree: ast.AST, modules: set[str]) -> set[str]:
    """Return the modules of the package that a module imports."""
    targets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "trainer":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                targets.add(whole if whole in modules else node.module)
    return targets & modules


def folder_of(module: str) -> Folder:
    """Return the folder of a module: `trainer.data` for `trainer.data.split`."""
    return module.rpartition(".")[0] or module


class House:
    """The sources of one checkout, parsed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = {path: path.read_text(encoding="utf-8") for path in sorted((root / "trainer").rglob("*.py"))}
        self.trees = {path: ast.parse(source) for path, source in self.sources.items()}
        self.modules = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for path in self.sources
        }

    def arrows(self) -> dict[tuple[Folder, Folder], int]:
        """Return pairs of folders of which the first imports the second, with the number of imports."""
        names = set(self.modules)
        arrows: Counter[tuple[Folder, Folder]] = Counter()
        for module, path in self.modules.items():
            for target in imports(self.trees[path], names):
                arrows[folder_of(module), folder_of(target)] += 1
        return {pair: count for pair, count in arrows.items() if pair[0] != pair[1]}

    def circles(self) -> list[list[str]]:
        """Return the groups of modules that import each other."""
        names = set(self.modules)
        below = {module: imports(self.trees[path], names) - {module} for module, path in self.modules.items()}
        return [group for group in components(below) if len(group) > 1]

    def num_lines(self) -> int:
        """Return the number of lines of all files."""
        return sum(source.count("\n") for source in self.sources.values())

    def names(self) -> list[str]:
        """Return every name that the sources bind, as often as they bind it."""
        return [name for tree in self.trees.values() for _, name in bindings(tree)]

    def vague_percent(self) -> float:
        """Return the share of vague bindings in percent."""
        names = self.names()
        return 100 * sum(map(is_vague, names)) / len(names)

    def any_per_1000_lines(self) -> float:
        """Return the uses of `Any` in 1,000 lines."""
        return 1000 * sum(map(num_any, self.trees.values())) / self.num_lines()

    def repeated_class_names(self) -> list[str]:
        """Return the names that two or more classes have."""
        counts = Counter(node.name for node in self.nodes(ast.ClassDef))
        return sorted(name for name, count in counts.items() if count > 1)

    def folder_sizes(self) -> dict[Folder, int]:
        """Return the number of modules in each folder, `__init__.py` not counted."""
        modules = (path for path in self.sources if path.name != "__init__.py")
        return Counter(str(path.parent.relative_to(self.root)) for path in modules)

    def nodes(self, kind: type[Node]) -> list[Node]:
        """Return the nodes of one kind in all files."""
        return [node for tree in self.trees.values() for node in ast.walk(tree) if isinstance(node, kind)]

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield name and value of each figure."""
        file_lengths = [source.count("\n") for source in self.sources.values()]
        lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in self.nodes(ast.FunctionDef)]
        names = self.names()
        texts = [text for tree in self.trees.values() for text in docstrings(tree)]
        folders = self.folder_sizes()
        largest = max(folders, key=lambda folder: folders[folder])
        yield "lines", f"{self.num_lines():,}"
        yield "files, lines of the median file", f"{len(file_lengths)}, {statistics.median(file_lengths):.0f}"
        yield (
            "functions, lines of the median and the longest",
            f"{len(lengths)}, {statistics.median(lengths):.0f}, {max(lengths)}",
        )
        yield "vague bindings", f"{sum(map(is_vague, names))} of {len(names)} ({self.vague_percent():.1f} %)"
        yield "class names that stand for two things", str(len(self.repeated_class_names()))
        yield "`Any` in 1,000 lines", f"{self.any_per_1000_lines():.1f}"
        num_comments = sum(map(comments, self.sources.values()))
        yield "comments in 100 lines", f"{100 * num_comments / self.num_lines():.1f}"
        yield "docstrings with an example", f"{sum(map(has_example, texts))} of {len(texts)}"
        yield "`assert_never`", str(sum(source.count("assert_never(") for source in self.sources.values()))
        yield "files of the largest folder", f"{folders[largest]} ({largest})"
        yield "folders, arrows between them", f"{len(folders)}, {len(self.arrows())}"
        yield "circles of modules", str(len(self.circles()))


def components(below: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph, by Tarjan's algorithm.

    Source: Tarjan 1972, Depth-first search and linear graph algorithms.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(below[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            groups.append(stack[at:])
            del stack[at:]

    for node in sorted(below):
        if node not in index:
            visit(node)
    return groups


def main() -> None:
    """Print the figures, or the vague names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--names", action="store_true")
    options = parser.parse_args()
    house = House(options.root.resolve())
    if options.names:
        for path, tree in house.trees.items():
            for line, name in sorted(set(bindings(tree))):
                if is_vague(name):
                    print(f"{path}:{line}: {name}")
        sys.exit()
    width = max(len(name) for name, _ in house.rows())
    for name, value in house.rows():
        print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    main()
