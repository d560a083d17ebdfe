"""Refuse parameters whose ids pytest would make from values that may differ between two collections.

Workers of pytest-xdist collect the tests independently, at different times and with different hash seeds. If their
lists differ, no test runs.
"""

from __future__ import annotations

import datetime
import random
from pathlib import PurePath
from typing import Any

import numpy as np
import pytest

UNSTABLE = (
    bytes,
    bytearray,
    memoryview,
    PurePath,
    set,
    frozenset,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    random.Random,
    np.random.Generator,
)


def pytest_make_parametrize_id(val: Any, argname: str) -> str | None:
    """Return None, so that pytest makes the id; pytest calls this only for parameters without an id.

    Raises:
        CollectError: The value is of a type that needs an explicit id.
    """
    if isinstance(val, UNSTABLE):
        raise pytest.Collector.CollectError(
            f"parameter {argname!r} is a {type(val).__name__}: give explicit ids, pytest.param(..., id=) or ids="
        )
    return None
