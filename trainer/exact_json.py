"""Read and write JSON without changing a number: integers of any length, decimals digit by digit.

orjson reads integers of 64 bits and decimals as doubles. One search finds text in which it could lose a digit; the
standard parser reads that text, a small part of ordinary rows.

Example:
    >>> dumps(loads('{"a": 1.10, "b": 123456789012345678901234567890}'))
    b'{"a":1.10,"b":123456789012345678901234567890}'
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

RISKY = re.compile(
    rb"[:,\[]\s*-?(?:[0-9][0-9.]{15}|0\.0000|[0-9]+(?:\.[0-9]+)?[eE]|[0-9]+\.[0-9]+0\s*[,\]}])|[:,\[]\s*-0\s*[,\]}]"
)
"""Numbers that a double or 64 bits may not hold as they are written; inside of strings too, which costs only time."""
CONTAINERS = (b"{", b"[", b'"')
WHOLE_NUMBERS = range(-(2**63), 2**64)
"""What orjson writes."""
MAX_INT_DIGITS = 640
"""Longer whole numbers are kept as their digits: Python converts no more than this by default at any setting.

Source: sys.int_info.str_digits_check_threshold."""


class ExactNumber(float):
    """A number that is kept as it is written, because the double nearest to it is written otherwise."""

    text: str

    def __new__(cls, text: str) -> ExactNumber:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type[ExactNumber], tuple[str]]:
        return type(self), (self.text,)

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


def read_float(digits: str) -> float:
    """Read a decimal, keeping its digits where Python would write it otherwise."""
    value = float(digits)
    return value if repr(value) == digits else ExactNumber(digits)


def read_int(digits: str) -> int | float:
    """Read a whole number of any length."""
    return ExactNumber(digits) if len(digits) > MAX_INT_DIGITS or digits == "-0" else int(digits)


DECODER = json.JSONDecoder(parse_int=read_int, parse_float=read_float, parse_constant=ExactNumber)
"""Reads NaN, Infinity and lone surrogates as well, which files in the wild hold and orjson refuses."""


def loads(text: bytes | str) -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: it is not JSON (json.JSONDecodeError says where), or not UTF-8.
        RecursionError: it is nested too deeply.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if content[:1] in CONTAINERS and not _is_risky(content):
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            pass
    return DECODER.decode(text if isinstance(text, str) else text.decode())


class Doubled(dict[str, object]):
    """An object that names a key twice, of whose values only the last is kept."""

    key: str


def _marked(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    doubled = Doubled(values)
    names = [name for name, _ in pairs]
    doubled.key = next(name for name in names if names.count(name) > 1)
    return doubled


_MARKING = json.JSONDecoder(
    object_pairs_hook=_marked, parse_int=read_int, parse_float=read_float, parse_constant=ExactNumber
)
_KEY = re.compile(rb'"[ \t\r\n]*:')


def with_doubled(text: bytes | str, value: object) -> object:
    """Return the value of JSON text, with its objects that name a key twice as `Doubled`.

    Args:
        text: JSON text.
        value: what `loads` made of it.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        if len(_KEY.findall(content)) == len(_KEY.findall(dumps(value))):
            return value
    except (TypeError, RecursionError):
        pass
    return _MARKING.decode(text if isinstance(text, str) else text.decode())


def doubled_key(value: object) -> str | None:
    """Return a key that an object of a value from `with_doubled` names twice; None where none does."""
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        doubled = next((item.key for item in level if isinstance(item, Doubled)), None)
        if doubled is not None:
            return doubled
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
    return None


def _is_risky(content: bytes) -> bool:
    has_digits = len(content.translate(None, b"0123456789")) < len(content)
    return has_digits and RISKY.search(content) is not None


def dumps(value: object, *, option: int = 0) -> bytes:
    """Return JSON with every number as it was read; dates, decimals and the like become text.

    Raises:
        TypeError: a lone surrogate, which UTF-8 cannot hold.
    """
    try:
        return orjson.dumps(value, default=_without_type, option=option)
    except TypeError:
        return orjson.dumps(_with_fragments(value), default=_without_type, option=option)


def text_of_json(value: object) -> str:
    """Return a value as the JSON text that is trained: in the spacing of Python's json, which chat templates write."""
    numbers: list[str] = []
    text = json.dumps(_with_marks(value, numbers), ensure_ascii=False, default=as_text)
    for number in numbers:
        text = text.replace(f'"{_MARK}{number}"', number, 1)
    return text


_MARK = "\ue000number:"
"""Before the digits of a number while its surroundings are written: a character that no text has."""


def _with_marks(value: object, numbers: list[str]) -> object:
    if isinstance(value, ExactNumber):
        numbers.append(value.text)
        return f"{_MARK}{value.text}"
    if isinstance(value, dict):
        return {key: _with_marks(item, numbers) for key, item in value.items()}
    return [_with_marks(item, numbers) for item in value] if isinstance(value, (list, tuple)) else value


def as_text(value: object) -> str:
    """Return what JSON has no type for as text: dates with their zone, decimals with all digits.

    Raises:
        TypeError: bytes that are no text, or a type that is none of data.
    """
    iso = getattr(value, "isoformat", None)
    if iso is not None:
        return str(iso())
    return value.hex() if isinstance(value, bytes) else str(value)


def is_number(value: float) -> bool:
    """Tell a number from NaN and Infinity, which JSON does not have; 1e400 is a number that a double does not hold."""
    return value.text[-1] not in "Ny" if isinstance(value, ExactNumber) else math.isfinite(value)


def _without_type(value: object) -> object:
    if isinstance(value, ExactNumber):
        return orjson.Fragment(value.text.encode()) if is_number(value) else value.text
    return as_text(value)


def _with_fragments(value: object) -> object:
    """Return the value with numbers beyond 64 bits as JSON already written."""
    if isinstance(value, int) and value not in WHOLE_NUMBERS:
        return orjson.Fragment(str(value).encode())
    if isinstance(value, dict):
        return {key: _with_fragments(item) for key, item in value.items()}
    return [_with_fragments(item) for item in value] if isinstance(value, (list, tuple)) else value
