"""A new member of a choice: mypy names every place that has to decide about it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
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
        edits: file below `trainer` -> text of the choice -> text with the member.
        names: one of them stands in each complaint of mypy about the member.
        places: `file:function` below `trainer` that decide about each member of the choice.
    """

    edits: dict[str, dict[str, str]]
    names: tuple[str, ...]
    places: tuple[str, ...]


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
        places=(
            *("recipe/method.py:has_reference", "recipe/method.py:trains_prompts"),
            *("methods/losses.py:loss_of", "methods/losses.py:rewards"),
        ),
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
        places=(
            *("recipe/method.py:has_reference", "recipe/method.py:row_facts"),
            *("methods/shapes/__init__.py:shape_of", "inspect/losses.py:_ranked", "stages/data.py:_check_fit"),
            *("tokens/store.py:segments_of", "tokens/store.py:last_trained", "tokens/batch.py:coder_of"),
            "scoring/heldout.py:read_held_out",
        ),
    ),
    "an adapter": Planted(
        edits={
            "recipe/model.py": {
                "Adapter = Annotated[": 'class Ia3(Section):\n    kind: Literal["ia3"]\n\n\nAdapter = Annotated[Ia3 | '
            }
        },
        names=("Ia3", "ia3"),
        places=(
            *("recipe/model.py:low_rank", "recipe/model.py:four_bit_of", "recipe/model.py:start_of"),
            *("model/load.py:precision", "model/activations.py:of", "model/writer.py:merged"),
            "scoring/origin.py:_card",
        ),
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
        places=tuple(f"scoring/graders/door.py:{name}" for name in ("check", "needs_help", "_grade_all")),
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
        places=("scoring/graders/door.py:_grade_row",),
    ),
    "a format of the export": Planted(
        edits={"recipe/export.py": {'Format = Literal["adapter", ': 'Format = Literal["onnx", "adapter", '}},
        names=("onnx",),
        places=("recipe/export.py:library_of", "model/formats.py:format_of"),
    ),
    "a type of personal data": Planted(
        edits={"recipe/pii.py": {"PersonalType = Literal[\n": 'PersonalType = Literal[\n    "blood_group",\n'}},
        names=("blood_group",),
        places=("data/pii/types.py:record_of",),
    ),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """(place, what mypy says) in a copy of the sources with all members planted."""
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
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return [complaint for line in done.stdout.splitlines() if (complaint := read_complaint(folder, line))]


def edits() -> Iterator[tuple[str, str, str]]:
    for planted in PLANTED.values():
        for path, changes in planted.edits.items():
            for old, new in changes.items():
                yield path, old, new


def read_complaint(folder: Path, line: str) -> tuple[str, str] | None:
    found = re.match(r"trainer/(\S+?):(\d+): error: (.*)", line)
    if found is None:
        return None
    path, number, said = found.groups()
    return f"{path}:{function_at(folder / 'trainer' / path, int(number))}", said


def function_at(path: Path, line: int) -> str:
    """Name of the innermost function around a line, empty outside all."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    around = [node for node in nodes if node.lineno <= line <= (node.end_lineno or 0)]
    return max(around, key=lambda node: node.lineno).name if around else ""


@pytest.mark.slow
@pytest.mark.parametrize("choice", PLANTED)
def test_mypy_names_every_place_that_decides_about_a_new_member(complaints: list[tuple[str, str]], choice: str) -> None:
    named = places_of(complaints, choice)
    assert not set(PLANTED[choice].places) - named


@pytest.mark.slow
@pytest.mark.parametrize("choice", PLANTED)
def test_contributing_lists_every_file_that_a_new_member_touches(
    complaints: list[tuple[str, str]], choice: str
) -> None:
    (row,) = (line for line in CONTRIBUTING.splitlines() if line.startswith(f"| {choice} |"))
    listed = set(re.findall(r"`trainer/(\S+)`", row))
    assert {place.partition(":")[0] for place in places_of(complaints, choice)} <= listed
    assert int(row.split("|")[2]) == len(listed)
    assert all((ROOT / "trainer" / path).exists() for path in listed if "NAME" not in path)


def places_of(complaints: list[tuple[str, str]], choice: str) -> set[str]:
    return {place for place, said in complaints if any(name in said for name in PLANTED[choice].names)}


@pytest.mark.slow
def test_mypy_complains_about_nothing_but_planted_members(complaints: list[tuple[str, str]]) -> None:
    names = [name for planted in PLANTED.values() for name in planted.names]
    assert not [one for one in complaints if not any(name in one[1] for name in names)]


def asked_in(path: Path) -> Iterator[str]:
    """Yield where code asks for one method or adapter, so that all others fall into the same branch."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(
            r"isinstance\(.*(?:Method|Adapter)\b|(?:method|adapter)\.(?:kind|shape) (?:==|!=|in|not in) ", line
        ):
            yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_code_asks_for_one_method_or_adapter_and_takes_all_others_alike() -> None:
    assert not [line for path in SOURCES for line in asked_in(path)]
