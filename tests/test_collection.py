"""Check that every collection gives the same list of tests: the workers of pytest-xdist compare theirs."""

from __future__ import annotations

import datetime
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tests.explicit_ids import pytest_make_parametrize_id

TESTS = tiny.ROOT / "tests"


def collected(hash_seed: int) -> list[str]:
    """Collect all tests in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(TESTS)],
        cwd=tiny.ROOT,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return [line for line in result.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_a_later_collection_with_another_hash_seed_gives_the_same_list(request: pytest.FixtureRequest) -> None:
    session_ids = [item.nodeid for item in request.session.items]
    option = request.config.option
    is_part = option.keyword or option.markexpr or option.deselect
    if is_part or {item.path for item in request.session.items} < set(TESTS.rglob("test_*.py")):
        session_ids = collected(hash_seed=8)
    assert collected(hash_seed=7) == session_ids


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        Path("x"),
        {"x"},
        frozenset("x"),
        datetime.datetime(2026, 1, 1),
        datetime.timedelta(1),
        random.Random(0),
        np.random.default_rng(0),
    ],
    ids=["bytes", "path", "set", "frozenset", "time", "duration", "random", "generator"],
)
def test_a_parameter_that_may_differ_between_collections_wants_an_explicit_id(value: Any) -> None:
    with pytest.raises(pytest.Collector.CollectError, match="explicit ids"):
        pytest_make_parametrize_id(value, "argument")


def test_other_parameters_get_their_id_from_pytest() -> None:
    assert all(pytest_make_parametrize_id(value, "argument") is None for value in (1, 0.5, "x", None, True, ("x",)))


def test_the_rule_is_in_force_for_every_test(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.Collector.CollectError, match="explicit ids"):
        request.config.hook.pytest_make_parametrize_id(config=request.config, val=b"x", argname="argument")
