"""Sentences of a text, by the marks that end them."""

from __future__ import annotations

import re

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
    """Split a text after . ! ? and their kin in other scripts; a line without one goes on in the next."""
    found, start = [], 0
    for match in _END.finditer(text):
        if _ends(text, start, match):
            found.append(text[start : match.end()].strip())
            start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


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
