"""Bring texts into one form, so that equal meanings compare equal."""

from __future__ import annotations

import re
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w.]*\d)")


def normalise(text: str, *, punctuation: bool = False, articles: bool = False, numbers: bool = False) -> str:
    """Return a text after NFKC, with one case and single spaces.

    Args:
        text: The text.
        punctuation: Leave punctuation out.
        articles: Leave a, an and the out.
        numbers: Write numbers in one way: 1,000.0 becomes 1000.

    Example:
        >>> normalise("The  answer: 1,000.0!", punctuation=True, articles=True, numbers=True)
        'answer 1000'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    if numbers:
        text = _NUMBER.sub(lambda match: _one_way(match[0]), text)
    if punctuation:
        text = "".join(" " if _is_mark(text, index) else letter for index, letter in enumerate(text))
    if articles:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def _one_way(number: str) -> str:
    plain = number.replace(",", "").lstrip("+")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _is_mark(text: str, index: int) -> bool:
    """Tell whether a character is punctuation; a point between digits and a sign before one are part of a number."""
    if not unicodedata.category(text[index]).startswith("P"):
        return False
    after = text[index + 1 : index + 2].isdigit()
    before = text[index - 1 : index].isdigit() if index else False
    is_point = text[index] == "." and before and after
    is_sign = text[index] == "-" and after and not text[index - 1 : index].isalnum()
    return not (is_point or is_sign)


def words(text: str) -> list[str]:
    """Return the words of a text without case, punctuation and articles, as SQuAD compares them."""
    return normalise(text, punctuation=True, articles=True).split()


def bare(text: str) -> str:
    """Return a text without case, outer white space and outer punctuation."""
    return normalise(text).strip(" .,;:!?\"'`*()[]“”‘’")
