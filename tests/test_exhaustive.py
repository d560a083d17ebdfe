"""Plant a new member in each choice: mypy must name every function that has to decide about it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SOURCES = sorted((ROOT / "trainer").rglob("*.py"))


class Planted(NamedTuple):
    """A member that a choice does not have.

    Args:
        edits: File below `trainer` -> text of the choice -> text with the member.
        names: Each error of mypy about the member holds one of them.
        deciders: File below `trainer` -> number of functions that decide about each member of the choice.
    """

    edits: dict[str, dict[str, str]]
    names: tuple[str, ...]
    deciders: dict[str, int]


PLANTED = {
    "a method of pairs": Planted(
        edits={
            "recipe/method.py": {
                "PairedMethod = ": (
                    "class Wpo(MethodSection):\n"
                    '    shape: ClassVar[Literal["pair"]] = "pair"\n'
                    '    kind: Literal["wpo"]\n'
                    "    beta: float\n\n\n"
                    "PairedMethod = Wpo | "
                )
            }
        },
        names=("Wpo",),
        deciders={"recipe/method.py": 2, "methods/losses.py": 2},
    ),
    "a method on rows of a new shape": Planted(
        edits={
            "recipe/method.py": {
                "PairedMethod = ": (
                    "class Kto(MethodSection):\n"
                    '    shape: ClassVar[Literal["labelled"]] = "labelled"\n'
                    '    kind: Literal["kto"]\n\n\n'
                    "PairedMethod = "
                ),
                "Method = Annotated[SftMethod": "Method = Annotated[Kto | SftMethod",
            },
            "tokens/store.py": {'StoredShape = Literal["single", ': 'StoredShape = Literal["single", "labelled", '},
        },
        names=("Kto", "labelled"),
        deciders={
            "recipe/method.py": 2,
            "methods/shapes/__init__.py": 1,
            "verbs/inspect/losses.py": 1,
            "data/fit.py": 1,
            "tokens/store.py": 2,
            "tokens/batch.py": 1,
            "scoring/questions/heldout.py": 1,
        },
    ),
    "an adapter": Planted(
        edits={
            "recipe/model.py": {
                "Adapter = Annotated[": 'class Ia3(Section):\n    kind: Literal["ia3"]\n\n\nAdapter = Annotated[Ia3 | '
            }
        },
        names=("Ia3", "ia3"),
        deciders={
            "recipe/model.py": 3,
            "model/load.py": 1,
            "model/planning/activations.py": 1,
            "export/write.py": 1,
            "export/lineage.py": 1,
        },
    ),
    "a grader": Planted(
        edits={
            "recipe/metrics.py": {
                "Grader = Annotated[\n    ": (
                    'class Palindrome(Metric):\n    kind: Literal["palindrome"]\n\n\n'
                    "Grader = Annotated[\n    Palindrome | "
                )
            }
        },
        names=("Palindrome",),
        deciders={"scoring/graders/dispatch.py": 3},
    ),
    "a grader of one answer at a time": Planted(
        edits={
            "recipe/metrics.py": {
                "RowGrader = (\n    ": (
                    'class Anagram(Metric):\n    kind: Literal["anagram"]\n\n\nRowGrader = (\n    Anagram | '
                )
            }
        },
        names=("Anagram",),
        deciders={"scoring/graders/dispatch.py": 3},
    ),
    "a format of the export": Planted(
        edits={"recipe/export.py": {'Format = Literal["adapter", ': 'Format = Literal["onnx", "adapter", '}},
        names=("onnx",),
        deciders={"recipe/export.py": 1, "export/formats.py": 1},
    ),
    "a type of personal data": Planted(
        edits={"recipe/pii.py": {"PersonalType = Literal[\n": 'PersonalType = Literal[\n    "blood_group",\n'}},
        names=("blood_group",),
        deciders={},  # without a record the import of trainer.data.pii.types fails, see test_records
    ),
}


class Complaint(NamedTuple):
    """An error of mypy: file below `trainer`, name of the function around it, message."""

    file: str
    function: str
    message: str


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[Complaint]:
    """Return the errors of mypy in a copy of the sources with all members planted."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "trainer", folder / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    for path, old, new in edits():
        text = (folder / "trainer" / path).read_text()
        assert text.count(old) == 1, old
        (folder / "trainer" / path).write_text(text.replace(old, new))
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    return [complaint for line in result.stdout.splitlines() if (complaint := read_complaint(folder, line))]


def edits() -> Iterator[tuple[str, str, str]]:
    for planted in PLANTED.values():
        for path, changes in planted.edits.items():
            for old, new in changes.items():
                yield path, old, new


def read_complaint(folder: Path, line: str) -> Complaint | None:
    match = re.match(r"trainer/(\S+?):(\d+): error: (.*)", line)
    if match is None:
        return None
    path, number, message = match.groups()
    return Complaint(path, function_around(folder / "trainer" / path, int(number)), message)


def function_around(path: Path, line: int) -> str:
    """Return the name of the innermost function around a line; empty outside of all."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    around = [node for node in nodes if node.lineno <= line <= (node.end_lineno or 0)]
    return max(around, key=lambda node: node.lineno).name if around else ""


def deciders_of(complaints: list[Complaint], choice: str) -> Counter[str]:
    """Return file -> number of its functions that mypy names for the member planted in a choice."""
    names = PLANTED[choice].names
    functions = {(file, function) for file, function, message in complaints if any(name in message for name in names)}
    return Counter(file for file, _ in functions)


@pytest.mark.slow
@pytest.mark.parametrize("choice", PLANTED)
def test_mypy_names_every_function_that_decides_about_a_new_member(complaints: list[Complaint], choice: str) -> None:
    assert Counter(PLANTED[choice].deciders) <= deciders_of(complaints, choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", PLANTED)
def test_contributing_lists_every_file_that_a_new_member_touches(complaints: list[Complaint], choice: str) -> None:
    (row,) = (line for line in CONTRIBUTING.splitlines() if line.startswith(f"| {choice} |"))
    files = set(re.findall(r"`trainer/(\S+)`", row))
    assert set(deciders_of(complaints, choice)) <= files
    assert int(row.split("|")[2]) == len(files)
    assert all((ROOT / "trainer" / path).exists() for path in files if "NAME" not in path)


@pytest.mark.slow
def test_mypy_complains_about_nothing_but_planted_members(complaints: list[Complaint]) -> None:
    names = [name for planted in PLANTED.values() for name in planted.names]
    assert not [complaint for complaint in complaints if not any(name in complaint.message for name in names)]


def single_member_branches(path: Path) -> Iterator[str]:
    """Yield where code asks for one method or adapter, so that all others fall into the same branch."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(
            r"isinstance\(.*(?:Method|Adapter)\b|(?:method|adapter)\.(?:kind|shape) (?:==|!=|in|not in) ", line
        ):
            yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_code_asks_for_one_method_or_adapter_and_takes_all_others_alike() -> None:
    assert not [line for path in SOURCES for line in single_member_branches(path)]
