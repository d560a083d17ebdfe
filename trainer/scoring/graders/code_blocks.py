"""Takes code out of an answer."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
MAX_CHARACTERS = 200_000


def code_in(text: str, languages: set[str], wanted: str | None = None) -> str:
    """Return the code of an answer: of its fences, else all of it.

    Args:
        text: The answer.
        languages: Names of the language, in small letters; fences of another one do not count where one has it.
        wanted: A word, such as a function's name: of several fences the first that has it counts, else the longest.
    """
    text = text[:MAX_CHARACTERS]
    blocks = [(language.lower(), code) for _, language, code in _FENCE.findall(text)]
    own = [code for language, code in blocks if language in languages] or [code for _, code in blocks]
    if not own:
        return text
    having = [code for code in own if wanted is not None and re.search(rf"\b{re.escape(wanted)}\b", code)]
    return having[0] if having else max(own, key=len)
