"""Replacing found values inside one text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import orjson

from trainer.data.pii.allow import CASE_SENSITIVE
from trainer.data.pii.checksums import digits_of
from trainer.data.pii.rule import Match

NO_DIGIT = re.compile(r"[^0-9\n]")
WIDENING = ("+", "(", "0")
"""What the pattern of a number takes in before its first digit."""
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


def may_come_again(found: Sequence[tuple[str, Sequence[Match]]]) -> list[tuple[str, str]]:
    """Return type and value of what is found, of each type of which a value may stand there once more.

    To look for values takes a pattern of their own, which takes as long to compile as all rules take to run; most
    values come no more often, in any case and with any separators, than they are found.

    Args:
        found: each text of a row with what is found in it.
    """
    whole = "\n".join([text for text, _ in found])
    values = [(match.type, text, match) for text, matches in found for match in matches if ":" not in match.type]
    if not whole.isascii():  # letters that are equal in another case, digits of other scripts
        return [(type_, text[match.start : match.end]) for type_, text, match in values]
    texts = {False: whole.lower(), True: NO_DIGIT.sub("", whole)}
    forms = [(type_, *_form(text[match.start : match.end])) for type_, text, match in values]
    again = {form[0] for form, count in Counter(forms).items() if _num_in(texts[form[1]], form[2]) > count}
    again |= {type_ for type_, text, match in values if text[match.start - 1 : match.start] in WIDENING}
    return [(type_, text[match.start : match.end]) for type_, text, match in values if type_ in again]


def _form(value: str) -> tuple[bool, str]:
    """Return whether a value is found by its digits alone, and what every spelling of it has in common."""
    return (True, NO_DIGIT.sub("", value)) if _is_number(value) else (False, value.lower())


def _num_in(text: str, part: str) -> int:
    """Count where a part stands in a text, also where two of them overlap."""
    count, start = 0, text.find(part)
    while start >= 0:
        count, start = count + 1, text.find(part, start + 1)
    return count


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
    if not _is_number(value):
        return re.escape(value)
    return r"(?:\+|00)?\(?" + r"[ \u00a0.\-/()]{0,3}".join(map(str, digits_of(value)))


def _is_number(value: str) -> bool:
    return not any(char.isalpha() for char in value) and ("." not in value.strip(".") or value.count(".") != 3)
