"""Find the borders of words, numbers and sentences in a text."""

from __future__ import annotations

import re

# Words and numbers

_SPACED = re.compile(r"[\u0041-\u08ff\u0900-\u0dff\u10a0-\u13ff\u1c90-\u1fff]")
"""Letters of scripts with spaces between words: Latin, Greek, Cyrillic, Hebrew, Arabic, of India, Georgian."""
AROUND = 12
"""Letters on either side that decide."""
_IS_NUMBER = re.compile(r"(?:^|[^\w.,])\d[\d.,]*$")
_UNIT = re.compile(r"(?!(?:st|nd|rd|th|e|er|ère|re|ème|eme)(?!\w))[^\W\d_]+(?![\d_])")
"""What may follow a number at once: 18kg; not an ordinal (18th), an exponent (18e3) or a code (18B2)."""
_AFTER_NUMBER = re.compile(r"[.,:]\d|\.[^\W\d_](?!\w)|['’\u00a0\u202f\u2009]\d{3}(?!\d)| 000(?!\d)|[º]|_\d")
"""18.5, 18:30, F32.A, 18'000: the number goes on."""
_AFTER_WORD = re.compile(r"\+\+|\+(?![\w(])|#|['’]t(?!\w)|&\w|_\w")
"""C++, B+, C#, can't, R&D, my_name: the name goes on."""
_AFTER_LETTER = re.compile(r"-(?=[^\W\d_]|\W|$)|\*(?=\s|$)")
"""X-ray, A-, A*: a letter alone is part of it."""
_BEFORE_NUMBER = re.compile(r"(?:\d[.,:]|(?:^|[^\w.])[.])$|(?:^|\W)[-−]$|\d['’\u00a0\u202f\u2009]$|\w_$")
"""1.18, .18, 12:18, -18, 1'018, v_18: the number has begun before; a sign that joins nothing is part of it."""
_BEFORE_WORD = re.compile(r"(?:^|\s)\.$|\w&$|\w_$")
""".NET, R&D, my_name."""


def stands_whole_in(text: str, part: str) -> bool:
    """Tell whether a part stands in a text as whole words and numbers.

    18 is not in 180, 1.18, -18, 18th or v18, but in 18kg and a-18; C is not in C++ or C#; can is not in can't. Scripts
    that write no spaces between words have no such borders.

    Example:
        >>> [stands_whole_in(text, "18") for text in ("18kg", "180", "1.18", "18th", "a-18")]
        [True, False, False, False, True]
    """
    start = text.find(part) if part else -1
    while start >= 0:
        end = start + len(part)
        before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
        if not _begun_before(before, part) and not _goes_on(before, part, after):
            return True
        start = text.find(part, start + 1)
    return not part


def _begun_before(before: str, part: str) -> bool:
    """Tell whether the first word or number of a part began in front of it."""
    if not before:
        return False
    if re.match(r"[-−+.]\d", part):  # the sign of -5 is a minus in 3-5, the point of .5 stands in 1.5
        return before[-1].isalnum()
    if not part[0].isalnum():
        return False
    begun = _BEFORE_NUMBER if part[0].isdigit() else _BEFORE_WORD
    return begun.search(before) is not None or _joins(before[-1], part[0])


def _goes_on(before: str, part: str, after: str) -> bool:
    """Tell whether the last word or number of a part goes on behind it."""
    if not after or not part[-1].isalnum():
        return False
    if part[-1].isdigit():
        if _AFTER_NUMBER.match(after) or after[0].isnumeric():
            return True
        is_unit = _IS_NUMBER.search(part) is not None and _UNIT.match(after) is not None
        return _joins(part[-1], after[0]) and not is_unit
    alone = len(part) == 1 and not before.endswith("*")  # stars on both sides are Markdown's
    if _AFTER_WORD.match(after) or (alone and _AFTER_LETTER.match(after)):
        return True
    return _joins(part[-1], after[0])


def _joins(first: str, second: str) -> bool:
    """Tell whether two letters side by side belong to one word."""
    return all(letter.isalnum() and (letter.isdigit() or _SPACED.match(letter)) for letter in (first, second))


# Sentences

_TITLES = {
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "rev", "gen", "col", "capt", "lt", "sgt", "hon", "vs", "etc",
    "e.g", "i.e", "cf", "al", "no", "vol", "fig", "eq", "inc", "ltd", "co", "corp", "dept", "est", "approx", "a.m",
    "p.m", "u.s", "u.k", "ph.d", "p.s", "p.p.s", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct",
    "nov", "dec",
}  # fmt: skip
"""Abbreviations whose point does not end a sentence where a word follows."""
_ENDS_ONE = {"etc", "inc", "ltd", "co", "corp", "jr", "sr", "a.m", "p.m", "u.s", "u.k", "ph.d"}
"""Those of them that do end one before a capital letter."""
_END = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s|\Z)|[。！？।॥؟]+[\"'”’」』）]*")
_LAST_WORD = re.compile(r"([^\s(\[\"'“‘*_]+)\Z")


def split_sentences(text: str) -> list[str]:
    """Split a text after . ! ? and their kin in other scripts; a line without one goes on in the next.

    Example:
        >>> split_sentences("Dr. Lee left at 5 p.m. He came back! Why?")
        ['Dr. Lee left at 5 p.m.', 'He came back!', 'Why?']
    """
    sentences, start = [], 0
    for match in _END.finditer(text):
        if _ends(text, start, match):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    after = text[match.end() :].lstrip(" \t\n\"'“‘(*_")[:1]
    if not match[0].startswith((".", "…")):
        return not (after.islower() and match[0][-1] in "\"'”’")  # "Stop!" she said
    if after.islower():
        return False  # an abbreviation or an ellipsis within a sentence
    if (len(match[0]) > 1 and match[0][1] == ".") or match[0].startswith("…"):
        return True
    return not _is_abbreviation(text[start : match.start()], after)


def _is_abbreviation(before: str, after: str) -> bool:
    """Tell whether the point after `before` belongs to a title, an initial or the number of a list."""
    word = _LAST_WORD.search(before)
    last = word[1] if word else ""
    if last.lower() in _TITLES:
        return not (last.lower() in _ENDS_ONE and after.isupper())
    is_initial = len(last) == 1 and last.isupper() and last != "I" and after != ""
    return is_initial or before.rsplit("\n", 1)[-1].strip(" \t*_#").isdigit()
