"""Exit codes are a contract."""

from __future__ import annotations

import inspect

import pytest

from trainer import errors
from trainer.errors import InterruptedRunError, Problem, RecipeError, TrainerError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TrainerError)]


def test_every_kind_of_error_has_its_own_exit_code() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS if kind not in (TrainerError, InterruptedRunError)}
    assert codes == {
        "RowBugError": 1,
        "RecipeError": 2,
        "DataError": 3,
        "StageError": 4,
        "HardwareError": 5,
        "GateError": 6,
        "DivergedError": 7,
    }
    assert {kind.exit_code: kind for kind in KINDS if 3 <= kind.exit_code <= 7} == errors.BY_EXIT_CODE


def test_an_error_without_a_hint_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        TrainerError("what")  # type: ignore[call-arg]


def test_a_recipe_error_lists_every_problem_with_its_place() -> None:
    error = RecipeError([Problem("r.yaml", 3, "seed", "wrong"), Problem("--set x", None, "x", "no value")])
    assert error.message == str(error) == "r.yaml:3: seed: wrong\n--set x: x: no value"
