"""Write numbers as a person reads them; a number that is not finite becomes a dash."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

DASH = "\u2013"
MINUS = "\u2212"
"""The typographic minus sign: as wide as a digit, so that columns align."""


def finite(value: object) -> float | None:
    """Return `value` as a float; None for anything but a finite number, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def write_duration(seconds: float | None) -> str:
    """Write seconds in the two largest units that matter.

    Example:
        >>> write_duration(3840), write_duration(65)
        ('1 h 04 min', '1 min 05 s')
    """
    if seconds is None or finite(seconds) is None or seconds < 0:
        return DASH
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, full_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {full_seconds:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def write_number(value: object) -> str:
    """Write a count with thousands separators, another number with four significant digits, other things as text."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    number = finite(value)
    if number is None:
        return DASH
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}".replace("-", MINUS)
    large = 1e4 <= abs(number) < 1e15
    return (f"{number:,.0f}" if large else f"{number:.4g}").replace("-", MINUS)


def write_amount(value: object) -> str:
    """Write an amount of money: cents from a tenth of a unit on, two significant digits below.

    Example:
        >>> write_amount(1234.5), write_amount(0.00114)
        ('1,234.50', '0.0011')
    """
    number = finite(value)
    if number is None:
        return DASH
    return f"{number:,.2f}" if abs(number) >= 0.1 or number == 0 else f"{number:.2g}"


def count_of(count: int, noun: str) -> str:
    """Write a count with its noun: `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def title_of(key: str) -> str:
    """Turn a key of a JSON file into words: `rows_train` becomes `rows train`."""
    return key.replace("_", " ")


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and text of each leaf; lists are joined with commas.

    Example:
        >>> list(flatten({"gpu": {"name": "H200"}, "ids": [0, 1]}))
        [('gpu.name', 'H200'), ('ids', '0, 1')]
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(write_number(item) for item in value) or DASH
        else:
            yield f"{prefix}{key}", write_number(value)
