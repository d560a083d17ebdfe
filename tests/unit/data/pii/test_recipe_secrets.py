"""Keys typed into a recipe or after --set are written nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.command import Project
from trainer.data.pii.recipe_secrets import without_secrets

KEY = "hf_" + "QmZtVbNyXcKdLwRsTfGhJpQaWsEdRfTgYh"


@pytest.mark.parametrize(
    "key",
    [KEY, "hf_" + "a" * 34, "ghp_" + "aB3" * 12, "sk-ant-api03-" + "aZ9_" * 24, "AKIA" + "QWERTYUIOPASDFGH"],
    ids=["hub", "hub repeated", "GitHub", "Anthropic", "AWS"],
)
def test_known_keys_are_masked_wherever_they_stand(key: str) -> None:
    masked = without_secrets({"a": [f"run {key} of today", key], "b": (f"name={key}",), "c": 1})
    assert key[8:] not in str(masked) and "***" in str(masked) and "of today" in str(masked)


@pytest.mark.parametrize(
    "text",
    [
        "icd10-coder",
        "/models/qwen2.5-7b-instruct-bnb-4bit",
        "8728e92c1ce364690ad3e6ede17c0afa57db8e1e",
        "sk-learn-like-name-of-a-run",
    ],
)
def test_names_paths_and_commits_stay(text: str) -> None:
    assert without_secrets(text) == text


def test_a_key_in_a_recipe_reaches_no_file_of_the_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    tiny.write_recipe(tmp_path, model=tiny_model_dir, track={"run_name": KEY})
    project = Project(tmp_path)
    result = project.call("data", "--set", f"track.project={KEY}")
    assert result.code == 0, result.text
    assert KEY not in result.text
    for path in project.runs.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert "hf_***" in (project.run / "recipe.resolved.json").read_text()
