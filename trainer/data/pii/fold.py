"""Write full-width letters and signs, and digits of all scripts, as ASCII: one character for one, so places stay."""

from __future__ import annotations

import sys
import unicodedata

WIDE_SIGNS = "＠．－＋（）／＿％"
"""Commas and colons of Chinese and Japanese text are left: between two numbers they part them."""

DIGITS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x80, sys.maxunicode + 1)
    if unicodedata.category(chr(code)) == "Nd"
}
LETTERS = {code: chr(code - 0xFEE0) for start in (0xFF21, 0xFF41) for code in range(start, start + 26)}
SIGNS = {ord(sign): unicodedata.normalize("NFKC", sign) for sign in WIDE_SIGNS}
TABLE = {**DIGITS, **LETTERS, **SIGNS}
TELLING = frozenset(map(chr, {**DIGITS, **LETTERS})) | {"＠"}
"""Without one of these a text is matched as it is: brackets alone are frequent in Chinese and Japanese."""


def folded(text: str) -> str:
    """Return the text as rules and checks read it, of the same length.

    Example:
        `電話：０９０－１２３４` is `電話：090-1234`.
    """
    return text if text.isascii() or TELLING.isdisjoint(text) else text.translate(TABLE)
