"""Check the outline of the project: stages, start-up time, options, recipes, file sizes, docs."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.recipe import load_recipe
from trainer.stages import STAGES

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "trainer").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets"}
OPTIONS = {
    "run": {"--help", "--set", "--run-dir", "--force", "--accept", "--resume-from", "--debug"},
    "inspect": {"--help", "--set", "--run-dir", "--debug", "--row", "--rule", "--flag", "--rejected", "--limit"}
    | {"--add-to-suite"},
    "predict": {"--help", "--set", "--run-dir", "--debug", "--schema", "--merged"},
    "chat": {"--help", "--set", "--run-dir", "--debug", "--base", "--merged"},
    "serve": {"--help", "--set", "--run-dir", "--debug", "--host", "--port", "--engine", "--python"},
    "verify": {"--help", "--debug"},
    "bench": {"--help", "--quick", "--json", "--rows", "--shape", "--debug"},
}
WATCHED = """
import json, sys
from trainer.cli import main
try:
    code = main({arguments!r})
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted(set(sys.modules) & {heavy!r})]))
"""


def watched(*arguments: str) -> tuple[int, list[str], float]:
    """Run a command; return its exit code, the heavy modules that it imported and its cpu seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = WATCHED.format(arguments=list(arguments), heavy=HEAVY)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # as in a second start, with compiled files
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, modules = json.loads(result.stdout.splitlines()[-1])
    return code, modules, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_verb_is_a_file_is_a_folder() -> None:
    files = {path.stem for path in (ROOT / "trainer" / "stages").glob("*.py")} - {"__init__"}
    assert list(STAGES) == ["data", "pack", "train", "eval", "decide", "export", "report"] and set(STAGES) == files


def start_seconds() -> float:
    """Return the cpu seconds of a start of Python with numpy and pydantic: the yardstick of this machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import numpy, pydantic"], timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("arguments", "limit"), [(["--help"], 1), (["check", "recipes/lora-sft.yaml"], 6)], ids=["help", "check"]
)
def test_help_and_check_are_light(arguments: list[str], limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--help` takes less than a start with numpy and pydantic (0.15 s), a check less than six."""
    monkeypatch.chdir(ROOT)
    yardstick = min(start_seconds() for _ in range(3))
    runs = [watched(*arguments) for _ in range(3)]
    assert all(code == 0 and not modules for code, modules, _ in runs), runs
    assert min(seconds for *_, seconds in runs) < limit * yardstick


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_command_line_does_not_grow(verb: str) -> None:
    text = subprocess.run(
        [sys.executable, "-m", "trainer", verb, "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", text)) == OPTIONS[verb]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_what_it_is_for(path: Path) -> None:
    recipe = load_recipe(path)
    lines = path.read_text().splitlines()
    is_variant = any(line.startswith(f"extends: {recipe.name}.yaml") for line in lines)  # shares the run of its parent
    assert (recipe.name == path.stem or is_variant) and lines[0].startswith("# ") and len(lines) <= 40
    if not path.stem.startswith("quickstart"):
        assert "Hardware" in path.read_text() and "memory" in path.read_text()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long_functions = [node.name for node in functions if (node.end_lineno or 0) - node.lineno > 70]
    assert not long_functions


def test_readme_and_docs_name_only_verbs_and_files_that_exist() -> None:
    verbs = {*STAGES, "run", "check", "schema", "inspect", "bench", "predict", "chat", "serve", "verify"}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        assert set(re.findall(r"(?:^ {4}|`|-m )trainer ([a-z]+)", text, re.MULTILINE)) <= verbs, page.name
        for name in re.findall(r"\b((?:recipes|scripts|docs|tests)/[\w./-]*\w/?)", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
