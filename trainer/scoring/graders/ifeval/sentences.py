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
    if not match[0].startswith((".", "…")):
        return True
    after = text[match.end() :].lstrip(" \t\n\"'“‘(*_")[:1]
    if after.islower():
        return False  # an abbreviation or an ellipsis within a sentence
    word = _LAST_WORD.search(text[start : match.start()])
    before = word[1].lower() if word else ""
    if match[0].startswith(("..", "…")):
        return True
    if before in _TITLES:
        return before in _ENDS_ONE and after.isupper()
    is_initial = len(before) == 1 and before.isalpha() and before != "i" and word is not None and word[1].isupper()
    is_list_number = before.isdigit() and not text[start : match.start()].strip(" \t\n*_#").strip("0123456789")
    return not (is_initial or is_list_number)
