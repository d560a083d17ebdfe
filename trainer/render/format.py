"""Write numbers the way a person reads them; what is no finite number becomes a dash."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

DASH = "\u2013"
MINUS = "\u2212"
"""The typographic minus sign: as wide as a digit, so that columns align."""


def finite(value: object) -> float | None:
    """Return `value` as a float, or None where it is no finite number (booleans are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def write_duration(seconds: float | None) -> str:
    """Write seconds in the two largest units that matter, such as `1 h 04 min`."""
    if seconds is None or finite(seconds) is None or seconds < 0:
        return DASH
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def write_number(value: object) -> str:
    """Write a count with thousands separators, another number with four significant digits, other things as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(bool(value), DASH) if value is not None else DASH
    if not isinstance(value, int | float):
        return str(value)
    number = finite(value)
    if number is None:
        return DASH
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}".replace("-", MINUS)
    large = 1e4 <= abs(number) < 1e15
    return (f"{number:,.0f}" if large else f"{number:.4g}").replace("-", MINUS)


def count_of(count: int, noun: str) -> str:
    """Write a count with its noun: `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def title_of(key: str) -> str:
    """Turn a key of a JSON file into words: `rows_train` becomes `rows train`."""
    return key.replace("_", " ")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and text of each leaf; lists are joined with commas.

    Example: {"gpu": {"name": "H200"}, "ids": [0, 1]} yields ("gpu.name", "H200"), ("ids", "0, 1").
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(write_number(item) for item in value) or DASH
        else:
            yield f"{prefix}{key}", write_number(value)
