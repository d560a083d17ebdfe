"""The recipes and templates that we ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from trainer.recipe import load_recipe

RECIPES = sorted((tiny.ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_shipped_recipe_is_valid_and_names_files_that_exist(path: Path) -> None:
    recipe = load_recipe(path)
    for source in recipe.data.sources:
        assert Path(source.path).is_file() or not source.path.startswith(str(tiny.ROOT / "recipes" / "data"))
    assert recipe.model.chat_template is None or Path(recipe.model.chat_template).is_file()
