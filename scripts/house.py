"""Measure how the source reads: names, types, comments, examples, folders, imports, lines.

    python scripts/house.py [--names | --comments] [ROOT]

Prints a table for the package `ROOT/trainer`; ROOT is any checkout, so that two states can be compared. `--names` lists
the vague bindings of each file, of tests and scripts too. `--comments` counts comments by folder.
"""

from __future__ import annotations

import argparse
import ast
import functools
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
WITH_TENSORS = (
    *("engine", "methods", "tokens", "model", "export/merge", "data/duplicates"),
    *("scoring/statistics", "scoring/gates", "scoring/generation"),
)
"""Folders of `trainer` where tensors and statistics are, which need more comments than others."""
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
                complete = f"{node.module}.{alias.name}"
                targets.add(complete if complete in modules else node.module)
    return targets & modules


def folder_of(module: str) -> Folder:
    """Return the folder of a module: `trainer.data` for `trainer.data.split`."""
    return module.rpartition(".")[0] or module


def sources_in(folder: Path) -> dict[Path, str]:
    """Read the sources of a folder and of all folders in it."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}


class House:
    """The sources of one checkout, parsed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = sources_in(root / "trainer")
        self.trees = {path: ast.parse(source) for path, source in self.sources.items()}
        self.modules = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for path in self.sources
        }

    @functools.cached_property
    def trees_beside(self) -> dict[Path, ast.Module]:
        """Parse tests and scripts, of which only the names are measured."""
        beside = sources_in(self.root / "tests") | sources_in(self.root / "scripts")
        return {path: ast.parse(source) for path, source in beside.items()}

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

    def vague(self, *, beside: bool = False) -> tuple[int, int]:
        """Count vague bindings and all bindings of the package, or of tests and scripts beside it."""
        trees = self.trees_beside if beside else self.trees
        names = [name for tree in trees.values() for _, name in bindings(tree)]
        return sum(map(is_vague, names)), len(names)

    def vague_percent(self, *, beside: bool = False) -> float:
        """Return the share of vague bindings in percent."""
        num_vague, total = self.vague(beside=beside)
        return 100 * num_vague / max(1, total)

    def comments_by_folder(self) -> dict[Folder, tuple[int, int]]:
        """Count the comments and lines of each folder, inner folders apart."""
        counts: dict[Folder, tuple[int, int]] = {}
        for path, source in self.sources.items():
            folder = str(path.parent.relative_to(self.root))
            num_comments, num_lines = counts.get(folder, (0, 0))
            counts[folder] = num_comments + comments(source), num_lines + source.count("\n")
        return counts

    def comments_with_tensors(self) -> float:
        """Return the comments in 100 lines of the folders where tensors and statistics are."""
        num_comments = num_lines = 0
        for folder, counts in self.comments_by_folder().items():
            if any(f"{folder}/".startswith(f"trainer/{name}/") for name in WITH_TENSORS):
                num_comments, num_lines = num_comments + counts[0], num_lines + counts[1]
        return 100 * num_comments / max(1, num_lines)

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
        texts = [text for tree in self.trees.values() for text in docstrings(tree)]
        folders = self.folder_sizes()
        largest = max(folders, key=lambda folder: folders[folder])
        yield "lines", f"{self.num_lines():,}"
        yield "files, lines of the median file", f"{len(file_lengths)}, {statistics.median(file_lengths):.0f}"
        yield (
            "functions, lines of the median and the longest",
            f"{len(lengths)}, {statistics.median(lengths):.0f}, {max(lengths)}",
        )
        for where, beside in (("", False), (" of tests and scripts", True)):
            num_vague, total = self.vague(beside=beside)
            yield f"vague bindings{where}", f"{num_vague} of {total} ({self.vague_percent(beside=beside):.1f} %)"
        yield "class names that stand for two things", str(len(self.repeated_class_names()))
        yield "`Any` in 1,000 lines", f"{self.any_per_1000_lines():.1f}"
        num_comments = sum(map(comments, self.sources.values()))
        yield "comments in 100 lines", f"{100 * num_comments / self.num_lines():.1f}"
        yield "  where tensors and statistics are", f"{self.comments_with_tensors():.1f}"
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
    """Print the figures, the vague names, or the comments by folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument("--names", action="store_true")
    lists.add_argument("--comments", action="store_true")
    options = parser.parse_args()
    house = House(options.root.resolve())
    if options.names:
        for path, tree in (house.trees | house.trees_beside).items():
            for line, name in sorted(set(bindings(tree))):
                if is_vague(name):
                    print(f"{path}:{line}: {name}")
        sys.exit()
    if options.comments:
        for folder, (num_comments, num_lines) in sorted(house.comments_by_folder().items()):
            print(f"{100 * num_comments / max(1, num_lines):4.1f} in 100 of {num_lines:5} lines  {folder}")
        sys.exit()
    width = max(len(name) for name, _ in house.rows())
    for name, value in house.rows():
        print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    main()
