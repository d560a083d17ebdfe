"""Convert Arrow values that Python has no exact type for: short floats, nanoseconds, durations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow
from pyarrow import types

Read = Callable[[Any], Any]
NANOSECONDS = pyarrow.time64("ns")
NS_PER_S, DAY_S = 10**9, 86_400


def reader_of(kind: pyarrow.DataType) -> Read | None:
    """Return what turns a value of `to_pylist` into what stands in the file; None where that is the same.

    Floats of 16 and 32 bits become the shortest decimal that is the same float (0.1, not 0.10000000149011612),
    durations and intervals become text by ISO 8601.
    """
    if types.is_float16(kind):
        return _unless_null(lambda number: float(str(np.float16(number))))
    if types.is_float32(kind):
        return _unless_null(lambda number: float(str(np.float32(number))))
    if types.is_duration(kind):
        return _unless_null(_duration)
    if kind == pyarrow.month_day_nano_interval():
        return _unless_null(lambda interval: _iso(interval.months, interval.days, interval.nanoseconds))
    return _unless_null(_time) if kind == NANOSECONDS else _inside(kind)


def _inside(kind: pyarrow.DataType) -> Read | None:
    if types.is_struct(kind):
        readers = {field.name: read for field in kind if (read := reader_of(field.type))}
        if not readers:
            return None
        return _unless_null(lambda row: row | {name: read(row[name]) for name, read in readers.items()})
    if types.is_map(kind):
        return _each(reader_of(kind.item_type), lambda read, items: {key: read(item) for key, item in items.items()})
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        return _each(reader_of(kind.value_type), lambda read, items: [read(item) for item in items])
    return reader_of(kind.value_type) if types.is_dictionary(kind) else None


def _each(read: Read | None, apply: Callable[[Read, Any], Any]) -> Read | None:
    return None if read is None else _unless_null(lambda items: apply(read, items))


def _unless_null(read: Read) -> Read:
    return lambda value: None if value is None else read(value)


def without_times(batch: Any) -> Any:
    """Return the batch with times of day in nanoseconds, which Python's cannot hold, as text."""
    schema = pyarrow.schema([field.with_type(_timeless(field.type)) for field in batch.schema])
    return batch if schema.types == batch.schema.types else batch.cast(schema)


def _timeless(kind: pyarrow.DataType) -> pyarrow.DataType:
    if kind == NANOSECONDS:
        return pyarrow.string()
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_timeless(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _timeless(kind.value_type)
        return kind if inner == kind.value_type else pyarrow.list_(inner)
    return kind


def _duration(value: Any) -> str:
    """Return a duration of Python, or of pandas where there are nanoseconds."""
    exact = (value.days * DAY_S + value.seconds) * NS_PER_S + value.microseconds * 1000
    exact = getattr(value, "value", exact)
    sign = -1 if exact < 0 else 1
    days, remainder = divmod(abs(exact), DAY_S * NS_PER_S)
    return _iso(0, sign * days, sign * remainder)


def _iso(months: int, days: int, nanoseconds: int) -> str:
    """Return P1M2DT3H4M5.6S; a minus stands before each negative part."""
    sign = "-" if nanoseconds < 0 else ""
    minutes, remainder = divmod(abs(nanoseconds), 60 * NS_PER_S)
    seconds = f"{remainder // NS_PER_S}.{remainder % NS_PER_S:09d}".rstrip("0").rstrip(".")
    date = "".join(f"{number}{unit}" for number, unit in ((months, "M"), (days, "D")) if number)
    clock = [(minutes // 60, "H"), (minutes % 60, "M"), (seconds if remainder else 0, "S")]
    time = "".join(f"{sign}{number}{unit}" for number, unit in clock if number)
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"


def _time(text: str) -> str:
    return text.rstrip("0").rstrip(".")
