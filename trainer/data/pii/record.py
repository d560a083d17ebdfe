"""Define what is done about values of a type: mask, pseudonym, lint rule, and rank where two types overlap."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from trainer.data.pii.fold import digits_in

EXTENSION = re.compile(r"[ ,]*(?:x|ext)", re.IGNORECASE)
"""Begins the extension of a telephone number: `555 0199 ext. 12`."""


class Twin(NamedTuple):
    """A pseudonym in the form of the value that fails the check of its type."""

    num_kept: int = 0
    """First characters that stay: country, kind of coin, kind of card."""


TWIN = Twin()


def all_stars(value: str) -> str:
    """Replace letters and digits, separators stay: `536-90-4399` is `***-**-****`."""
    return re.sub(r"[^\W_]", "*", value)


def three_stars(_: str) -> str:
    """Return the same mask for every value."""
    return "***"


@dataclass(frozen=True)
class PiiRecord:
    """What is done about values of one type. The defaults are those of an identity number."""

    mask: Callable[[str], str] = all_stars
    """Makes a value unreadable, so that no rule finds it again."""
    stand_in: Twin | Callable[[str, bytes], str] | None = TWIN
    """Pseudonym: a twin, a function of value and 64 random bytes, or None: a numbered placeholder, because people
    would take an invented value for a real one."""
    lint: str = "P006"
    """Lint rule that reports such values."""
    is_titled: bool = False
    """The title of that rule names the type."""
    rank: int = 100
    """The type of the lower rank keeps characters that two types claim."""


def mask_digits(value: str, *, num_shown: int) -> str:
    """Replace all letters and digits except the last `num_shown` digits.

    Example:
        >>> mask_digits("+1 202-456-1111", num_shown=2)
        '+* ***-***-**11'
    """
    num_hidden = len(digits_in(value)) - num_shown
    chars, num_digits = [], 0
    for char in value:
        num_digits += char.isdigit()
        is_clear = not char.isalnum() or (char.isdigit() and num_digits > num_hidden)
        chars.append(char if is_clear else "*")
    return "".join(chars)


def in_form(value: str, chars: str) -> str:
    """Put `chars` in the places of the letters and digits of `value`.

    Example:
        >>> in_form("3C:22:FB", "02005e")
        '02:00:5E'
    """
    source = iter(chars)
    return "".join(
        (next(source).upper() if char.isupper() else next(source)) if char.isalnum() else char for char in value
    )


def reserved_ip(value: str, noise: bytes) -> str:
    """Return an address of class E (RFC 1112), or of the documentation range of IPv6 (RFC 3849)."""
    if ":" in value:
        return str(ipaddress.IPv6Address(0x20010DB8 << 96 | int.from_bytes(noise[:12], "big")))
    return str(ipaddress.IPv4Address(0xF0 << 24 | noise[0] % 15 << 24 | int.from_bytes(noise[1:4], "big")))


def fictional_phone(value: str, noise: bytes) -> str:
    """Return a number that ends in 555-01XX, in the form of `value`. Its country code or leading zero stays.

    Each area has a hundred such endings, so two numbers may share a pseudonym.

    Example:
        >>> fictional_phone("+1 202-456-1111", bytes(64))
        '+1 222-555-0100'
    """
    number = EXTENSION.split(value, maxsplit=1)[0]
    digits = digits_in(number)
    prefix = len(digits) - len(digits.lstrip("0")) + (2 if number.startswith(("+", "00", "(+")) else 0)
    num_kept = max(0, min(prefix, len(digits) - 7))
    # Drawn from the right, so that the national and the international spelling agree in the digits that both have.
    drawn = "".join(str(byte % 8 + 2) for byte in noise[: max(0, len(digits) - 7 - num_kept)])[::-1]
    twin = digits[:num_kept] + drawn + f"55501{noise[-1] % 100:02}"
    return in_form(number, twin[-len(digits) :])
