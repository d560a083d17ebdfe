"""Refuse parameters whose ids pytest would make from values that may differ between two collections.

Workers of pytest-xdist collect apart from each other, in other seconds and with other hash seeds; where their lists of
tests differ, not one test runs.
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
    """Return None, so that pytest makes the id; it asks only where a test names none.

    Raises:
        CollectError: The value is of a kind that wants an explicit id.
    """
    if isinstance(val, UNSTABLE):
        raise pytest.Collector.CollectError(
            f"parameter {argname!r} is a {type(val).__name__}: give explicit ids, pytest.param(..., id=) or ids="
        )
    return None
