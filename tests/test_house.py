"""The limits of names, types and folders that `python scripts/house.py` measures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Limits follow the figures; none is ever made easier.
MAX_VAGUE_PERCENT = 1.0
MAX_ANY_PER_1000_LINES = 8.0
MAX_MODULES_IN_A_FOLDER = 28
MIN_COMMENTS_PER_100_LINES = 2.5
"""Where tensors and statistics are."""


def load_script(path: Path) -> ModuleType:
    """Import a script that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def house() -> Any:
    return load_script(ROOT / "scripts" / "house.py").House(ROOT)


def test_few_names_are_vague(house: Any) -> None:
    assert house.vague_percent() < MAX_VAGUE_PERCENT, "python scripts/house.py --names lists them"


def test_few_names_of_tests_and_scripts_are_vague(house: Any) -> None:
    assert house.vague_percent(beside=True) < MAX_VAGUE_PERCENT, "python scripts/house.py --names lists them"


def test_tensors_and_statistics_are_explained(house: Any) -> None:
    assert house.comments_with_tensors() >= MIN_COMMENTS_PER_100_LINES, "python scripts/house.py --comments lists them"


def test_few_values_are_of_any_type(house: Any) -> None:
    assert house.any_per_1000_lines() < MAX_ANY_PER_1000_LINES


def test_no_two_classes_share_a_name(house: Any) -> None:
    assert house.repeated_class_names() == []


def test_modules_do_not_import_each_other_in_circles(house: Any) -> None:
    assert house.circles() == []


def test_no_folder_is_too_large_to_survey(house: Any) -> None:
    sizes = house.folder_sizes()
    assert {folder: size for folder, size in sizes.items() if size > MAX_MODULES_IN_A_FOLDER} == {}
