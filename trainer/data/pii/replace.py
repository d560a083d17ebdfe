"""Replacing found values inside one text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import orjson

from trainer.data.pii.allow import CASE_SENSITIVE
from trainer.data.pii.checksums import digits_of
from trainer.data.pii.rule import Match

Replacement = Callable[[str, str], str]
"""Type and value in, what stands in its place out."""


def replace(text: str, found: Sequence[Match], replacement: Replacement) -> str:
    """Return `text` with the ranges replaced; a text that is JSON stays JSON.

    Args:
        text: any text.
        found: ranges in order, without overlap.
        replacement: what stands in place of a value.
    """
    plain = _replaced(text, found, replacement)
    if text.lstrip()[:1] not in ("{", "[") or not is_json(text) or is_json(plain):
        return plain
    # A bare number became a word: it needs quotes where it does not stand inside a string.
    return _replaced(text, found, replacement, quoted=True)


def _replaced(text: str, found: Sequence[Match], replacement: Replacement, *, quoted: bool = False) -> str:
    pieces, end = [], 0
    for match in found:
        new = replacement(match.type, text[match.start : match.end])
        bare = quoted and not inside_string(text, match.start)
        pieces += [text[end : match.start], f'"{new}"' if bare else new]
        end = match.end
    return "".join([*pieces, text[end:]])


def is_json(text: str) -> bool:
    """Tell whether `text` parses as JSON."""
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def inside_string(text: str, position: int) -> bool:
    """Tell whether `position` of a JSON text lies inside a string: an odd number of open quotes before."""
    return re.findall(r'\\.|"', text[:position], re.DOTALL).count('"') % 2 == 1


def after_escape(text: str, match: Match) -> Match:
    r"""Leave out a letter that belongs to an escape before the value: the `n` of `\nann@host.org` in JSON text."""
    before = len(text[: match.start]) - len(text[: match.start].rstrip("\\"))
    if before % 2 == 1 and text[match.start] in "nrtbf":
        return Match(match.start + 1, match.end, match.type)
    return match


def echo_pattern(values: Iterable[tuple[str, str]]) -> dict[str, re.Pattern[str]]:
    """Build, for each type, a pattern that finds its values again where no word around them gives them away.

    Args:
        values: type and value of what was found.
    """
    by_type: dict[str, set[str]] = {}
    for type_, value in values:
        if sum(char.isalnum() for char in value) >= 5:
            by_type.setdefault(type_, set()).add(_spelled(value))
    return {
        type_: re.compile(
            rf"(?<![A-Za-z0-9_])(?:{'|'.join(sorted(spelled, key=lambda form: (-len(form), form)))})(?![A-Za-z0-9_])",
            0 if type_ in CASE_SENSITIVE else re.IGNORECASE,
        )
        for type_, spelled in by_type.items()
    }


def _spelled(value: str) -> str:
    """Return a pattern of the value; a number matches with any separators between its digits."""
    if any(char.isalpha() for char in value) or ("." in value.strip(".") and value.count(".") == 3):
        return re.escape(value)
    return r"(?:\+|00)?\(?" + r"[ \u00a0.\-/()]{0,3}".join(map(str, digits_of(value)))
