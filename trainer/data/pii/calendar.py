"""Dates inside identity numbers."""

from __future__ import annotations

import datetime


def is_date(year: int, month: int, day: int) -> bool:
    """Tell whether the date exists."""
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def is_short_date(digits: str) -> bool:
    """Tell whether six digits are a date `yymmdd` of the last or of this century."""
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    return is_date(1900 + year, month, day) or is_date(2000 + year, month, day)
