"""Rewrite a text as classes of characters, so that a substring search replaces a pattern, at a tenth of its cost."""

from __future__ import annotations

import string

CAPITALS, SMALL, DIGITS = string.ascii_uppercase, string.ascii_lowercase, string.digits
LETTERS = string.ascii_letters
NO_CLASS = b"."
"""Sign of a character without a class, and of each byte of one beyond ASCII."""


def class_table(**classes: str) -> bytes:
    """Build a table for `classes_of`.

    Args:
        classes: sign of a class -> its ASCII characters.

    Returns:
        (256,) sign of each byte.
    """
    table = bytearray(NO_CLASS * 256)
    for sign, members in classes.items():
        for member in members:
            table[ord(member)] = ord(sign)
    return bytes(table)


def classes_of(text: str, table: bytes) -> bytes:
    """Return the classes of the characters of a text, one byte for each byte of its UTF-8.

    Example:
        >>> classes_of("camelCase 3", class_table(A=CAPITALS, a=SMALL, d=DIGITS))
        b'aaaaaAaaa.d'
    """
    return text.encode("utf-8", "surrogatepass").translate(table)
