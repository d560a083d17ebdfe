"""Replace values inside one text, and find their other spellings in the texts of a row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import orjson

from trainer.data.pii.allow import CASE_SENSITIVE
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.fold import digits_in

NO_DIGIT = re.compile(r"[^0-9\n]")
WIDENING = ("+", "(", "0")
"""Signs before the first digit that the pattern of a number includes."""
Replacement = Callable[[str, str], str]
"""Function from type and value to the new text."""


def replace(text: str, matches: Sequence[Match], replacement: Replacement) -> str:
    """Return `text` with the ranges replaced. JSON stays JSON.

    Args:
        text: any text.
        matches: ranges in order, without overlap.
        replacement: returns the new text of a value.

    Example:
        >>> replace('{"n": 5367}', [Match(6, 10, "card")], lambda type_, value: "[CARD]")
        '{"n": "[CARD]"}'
    """
    plain = _replaced(text, matches, replacement)
    if text.lstrip()[:1] not in ("{", "[") or not is_json(text) or is_json(plain):
        return plain
    # A bare number became a word: it needs quotes where it does not stand inside a string.
    return _replaced(text, matches, replacement, is_quoted=True)


def _replaced(text: str, matches: Sequence[Match], replacement: Replacement, *, is_quoted: bool = False) -> str:
    pieces, end = [], 0
    for match in matches:
        new = replacement(match.type, text[match.start : match.end])
        is_bare = is_quoted and not inside_string(text, match.start)
        pieces += [text[end : match.start], f'"{new}"' if is_bare else new]
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
    """Tell whether `position` of a JSON text lies inside a string: an odd number of quotes before."""
    return re.findall(r'\\.|"', text[:position], re.DOTALL).count('"') % 2 == 1


def after_escape(text: str, match: Match) -> Match:
    r"""Leave out a letter of an escape before the value: the `n` of `\nann@host.org` in JSON text."""
    before = len(text[: match.start]) - len(text[: match.start].rstrip("\\"))
    if before % 2 == 1 and text[match.start] in "nrtbf":
        return Match(match.start + 1, match.end, match.type)
    return match


def may_come_again(scanned: Sequence[tuple[str, Sequence[Match]]]) -> list[tuple[str, str]]:
    """Return type and value of the matches of each type with a value that may occur once more.

    A pattern of the values takes as long to compile as all rules take to run. Most values occur no more often, in
    any case and with any separators, than they match.

    Args:
        scanned: texts of a row with their matches.
    """
    joined = "\n".join([text for text, _ in scanned])
    values = [(match.type, text, match) for text, matches in scanned for match in matches if ":" not in match.type]
    if not joined.isascii():  # letters that are equal in another case, digits of other scripts
        return [(type_, text[match.start : match.end]) for type_, text, match in values]
    texts = {False: joined.lower(), True: NO_DIGIT.sub("", joined)}
    forms = [(type_, *_form(text[match.start : match.end])) for type_, text, match in values]
    again = {form[0] for form, count in Counter(forms).items() if _num_in(texts[form[1]], form[2]) > count}
    again |= {type_ for type_, text, match in values if text[match.start - 1 : match.start] in WIDENING}
    return [(type_, text[match.start : match.end]) for type_, text, match in values if type_ in again]


def _form(value: str) -> tuple[bool, str]:
    """Return whether a value is a number, and the part that all its spellings share."""
    return (True, NO_DIGIT.sub("", value)) if _is_number(value) else (False, value.lower())


def _num_in(text: str, part: str) -> int:
    """Count the occurrences of a part, overlapping ones too."""
    count, start = 0, text.find(part)
    while start >= 0:
        count, start = count + 1, text.find(part, start + 1)
    return count


def echo_pattern(values: Iterable[tuple[str, str]]) -> dict[str, re.Pattern[str]]:
    """Build a pattern for each type: it finds the values again where no word stands beside them.

    Example:
        >>> echo_pattern([("phone", "202-456-1111")])["phone"].search("or (202) 4561111")[0]
        '(202) 4561111'
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
    """Return a pattern of the value. That of a number allows any separators."""
    if not _is_number(value):
        return re.escape(value)
    return r"(?:\+|00)?\(?" + r"[ \u00a0.\-/()]{0,3}".join(digits_in(value))


def _is_number(value: str) -> bool:
    return not any(char.isalpha() for char in value) and ("." not in value.strip(".") or value.count(".") != 3)
