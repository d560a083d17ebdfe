"""Search for the regular expressions of a recipe, each within a time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    import re

PATTERN_S = 1.0
"""A careless expression, such as `(a+)+$`, takes time that doubles with each letter of an answer."""


def search(pattern: str, text: str, *, ignore_case: bool = False) -> re.Match[str] | None:
    """Return the first match, as `re.search` does.

    Raises:
        TimeoutError: It takes longer than PATTERN_S.
    """
    return regex.search(pattern, text, regex.IGNORECASE if ignore_case else 0, timeout=PATTERN_S)


def matches(pattern: str, text: str) -> list[re.Match[str]]:
    """Return all matches, as `re.finditer` does.

    Raises:
        TimeoutError: They take longer than PATTERN_S.
    """
    return list(regex.finditer(pattern, text, timeout=PATTERN_S))
