"""Rewrite full-width letters and signs, and digits of all scripts, as ASCII. Each character becomes one character."""

from __future__ import annotations

import re
import unicodedata

WIDE_SIGNS = "＠．－＋（）／＿％"
"""Commas and colons of Chinese and Japanese text stay: between two numbers they separate them."""

END_OF_SCRIPTS = 0x20000
"""All scripts stand in the first two planes of Unicode; the others take ten times as long to look through."""
DIGITS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x80, END_OF_SCRIPTS)
    if unicodedata.category(chr(code)) == "Nd"
}
LETTERS = {code: chr(code - 0xFEE0) for start in (0xFF21, 0xFF41) for code in range(start, start + 26)}
SIGNS = {ord(sign): unicodedata.normalize("NFKC", sign) for sign in WIDE_SIGNS}
TABLE = {**DIGITS, **LETTERS, **SIGNS}
CUES = frozenset(map(chr, {**DIGITS, **LETTERS})) | {"＠"}
"""A text without one of these stays as it is: wide brackets alone are frequent in Chinese and Japanese."""


def folded(text: str) -> str:
    """Return the text as rules and checks read it, of the same length.

    Example:
        >>> folded("電話：０９０－１２３４")
        '電話：090-1234'
    """
    return text if text.isascii() or CUES.isdisjoint(text) else text.translate(TABLE)


def digits_in(value: str) -> str:
    """Return the ASCII digits of a value.

    Example:
        >>> digits_in("+1 (202) 456-1111")
        '12024561111'
    """
    return re.sub("[^0-9]", "", value)
