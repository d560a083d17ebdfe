from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.lint.rules import RULES
from trainer.data.pii.types import RECORDS, SECRETS, record_named


def test_every_record_names_a_lint_rule_and_secrets_have_the_one_that_stops() -> None:
    assert {record.lint for record in RECORDS.values()} <= RULES.keys()
    assert {name for name, record in RECORDS.items() if RULES[record.lint].severity == "error"} == SECRETS


@pytest.mark.parametrize(
    ("name", "lint"), [("name:PER", "P008"), ("presidio:PERSON", "P008"), ("presidio:URL", "P099")]
)
def test_types_of_the_extras_have_a_record_too(name: str, lint: str) -> None:
    assert record_named(name).lint == lint


@pytest.mark.slow
def test_a_type_of_the_recipe_without_a_record_fails_the_import() -> None:
    source = Path(sys.modules["trainer.recipe.pii"].__file__ or "").read_text()
    planted = source.replace("PersonalType = Literal[\n", 'PersonalType = Literal[\n    "blood_group",\n')
    script = (
        "import sys, types\n"
        "import trainer.recipe.pii as section\n"
        f"exec(compile({planted!r}, 'pii', 'exec'), section.__dict__)\n"
        "import trainer.data.pii.types\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1 and "AssertionError: {'blood_group'}" in result.stderr
